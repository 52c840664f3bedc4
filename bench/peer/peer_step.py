# SPDX-License-Identifier: Apache-2.0
"""Times one LoRA train step of transformers and peft: forward, backward, clipping, AdamW.

    python bench/peer/peer_step.py --model models/mamba-5m --shape 4x64 --steps 3
    python bench/peer/peer_step.py --model 130m --shape 8x512 --device cuda --tf32

LoRA r 8 on x_proj, embeddings, in_proj, out_proj, with peft's refusal of out_proj on Mamba lifted. Needs torch, transformers, peft.
"""
import argparse
import json
import resource
import statistics
import time

import peft.tuners.tuners_utils
import torch
from peft import LoraConfig, get_peft_model
from transformers import MambaConfig, MambaForCausalLM

peft.tuners.tuners_utils._check_lora_target_modules_mamba = lambda *args, **kwargs: None

SIZES = {"130m": (768, 24), "370m": (1024, 48), "790m": (1536, 48), "1.4b": (2048, 48), "2.8b": (2560, 64)}

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="130m", help="a size, for a random model, or the folder of a config")
parser.add_argument("--shape", default="4x64", help="batch x seqlen")
parser.add_argument("--steps", type=int, default=3, help="timed steps, after one that is not")
parser.add_argument("--device", default="cpu")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--tf32", action="store_true")
options = parser.parse_args()

torch.set_num_threads(options.threads)
torch.backends.cuda.matmul.allow_tf32 = options.tf32
torch.manual_seed(0)
if options.model in SIZES:
    d_model, n_layer = SIZES[options.model]
    config = MambaConfig(hidden_size=d_model, num_hidden_layers=n_layer)
else:
    config = MambaConfig.from_pretrained(options.model)
lora = LoraConfig(r=8, target_modules=["x_proj", "embeddings", "in_proj", "out_proj"], task_type="CAUSAL_LM", bias="none")
model = get_peft_model(MambaForCausalLM(config), lora).to(options.device).train()
parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(parameters, lr=2e-3)
batch, seqlen = map(int, options.shape.split("x"))
ids = torch.randint(0, config.vocab_size, (batch, seqlen), device=options.device)

times = []
for _ in range(options.steps + 1):
    start = time.perf_counter()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    if options.device == "cuda":
        torch.cuda.synchronize()
    times.append(time.perf_counter() - start)
seconds = statistics.median(times[1:])
result = {
    "device": options.device,
    "model": options.model,
    "batch": batch,
    "seqlen": seqlen,
    "tf32": options.tf32,
    "seconds": round(seconds, 4),
    "tokens_per_second": round(batch * seqlen / seconds, 1),
    "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}
if options.device == "cuda":
    result["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
print(json.dumps(result))
