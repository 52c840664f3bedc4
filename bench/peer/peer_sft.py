# SPDX-License-Identifier: Apache-2.0
"""Times the seed recipe in trl's SFTTrainer with a peft LoraConfig.

    python bench/peer/peer_sft.py --base models/mamba-5m --data datasets/quickstart/train.jsonl --steps 10

Needs torch, transformers, peft, trl, datasets.
"""
import argparse
import json
import time

import peft.tuners.tuners_utils
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

peft.tuners.tuners_utils._check_lora_target_modules_mamba = lambda *args, **kwargs: None

parser = argparse.ArgumentParser()
parser.add_argument("--base", required=True, help="folder of the base model")
parser.add_argument("--data", required=True, help="JSONL of prompt and completion")
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--out", default="peer_sft_out", help="the trainer's output folder")
options = parser.parse_args()

torch.set_num_threads(options.threads)
with open(options.data, encoding="utf-8") as file:
    records = [json.loads(line) for line in file]
trainer = SFTTrainer(
    model=AutoModelForCausalLM.from_pretrained(options.base, dtype=torch.float32),
    processing_class=AutoTokenizer.from_pretrained(options.base),
    args=SFTConfig(
        output_dir=options.out,
        max_steps=options.steps,
        per_device_train_batch_size=4,
        logging_steps=5,
        learning_rate=2e-3,
        report_to="none",
        max_length=256,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
    ),
    peft_config=LoraConfig(r=8, target_modules=["x_proj", "embeddings", "in_proj", "out_proj"], task_type="CAUSAL_LM", bias="none"),
    train_dataset=Dataset.from_list([{"text": record["prompt"] + record["completion"]} for record in records]),
)
start = time.time()
trainer.train()
print(json.dumps({"steps": options.steps, "seconds": round(time.time() - start, 1)}))
