# SPDX-License-Identifier: Apache-2.0
"""Makes test/golden/falcon_mamba: `python3 test/parity/make_falcon_golden.py`. Its README says what the files hold."""
import copy
import json
import pathlib

import peft
import torch
import transformers
import peft.tuners.tuners_utils
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import FalconMambaConfig, FalconMambaForCausalLM

# peft refuses out_proj on Mamba because the fused kernels of transformers bypass it; here they are not used.
peft.tuners.tuners_utils._check_lora_target_modules_mamba = lambda *args, **kwargs: None

FOLDER = pathlib.Path(__file__).parent.parent / "golden" / "falcon_mamba"
VOCAB, LAYERS = 61, 2
TRAIN = {"optimizer": "AdamW", "lr": 0.005, "weight_decay": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "max_grad_norm": 1.0}


def make_model():
    # As in falcon-mamba-7b: d_inner is intermediate_size and not expand * d_model, and the head is not tied.
    config = FalconMambaConfig(
        vocab_size=VOCAB,
        hidden_size=24,
        num_hidden_layers=LAYERS,
        state_size=8,
        time_step_rank=3,
        expand=16,
        intermediate_size=40,
        mixer_rms_eps=1e-4,
        tie_word_embeddings=False,
        pad_token_id=0,
    )
    model = FalconMambaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def make_adapter(model):
    targets = ["in_proj", "x_proj", "out_proj", "embeddings"]
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    return adapted


def loss_of(model, ids, labels):
    return model(input_ids=ids, labels=labels, use_cache=False).loss


def train_curve(adapted, batches):
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    options = {key: TRAIN[key] for key in ("lr", "weight_decay", "eps")}
    optimizer = torch.optim.AdamW(parameters, betas=TRAIN["betas"], **options)
    losses, norms = [], []
    for step in range(30):
        batch = batches[step % len(batches)]
        optimizer.zero_grad()
        loss = loss_of(adapted, batch, batch)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, TRAIN["max_grad_norm"]).item())
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


def main():
    torch.manual_seed(20)
    model = make_model()
    FOLDER.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(FOLDER / "model")
    double = copy.deepcopy(model).double()

    ids = torch.randint(1, VOCAB, (3, 24))
    labels = ids.clone()
    labels[0, :5] = -100
    labels[2, 15:] = -100
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    mask[1, :7] = 0
    prompt = torch.randint(1, VOCAB, (2, 8))
    batches = torch.randint(1, VOCAB, (4, 3, 24))
    tensors = {"input_ids": ids, "labels": labels, "leftpad_attention_mask": mask, "generate_prompt": prompt, "train_batches": batches}
    with torch.no_grad():
        out = double(input_ids=ids, labels=labels, output_hidden_states=True, use_cache=False)
        tensors["logits"] = out.logits
        tensors["hidden_states"] = torch.stack(out.hidden_states[-(LAYERS + 1):])
        loss = out.loss.item()
        tensors["leftpad_logits"] = double(input_ids=ids, attention_mask=mask, use_cache=False).logits
        rows = prompt
        for _ in range(12):
            rows = torch.cat([rows, double(input_ids=rows, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
        tensors["generate_greedy"] = rows
        options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "eos_token_id": None}
        tensors["generate_hf_cache"] = model.generate(prompt, **options)

    adapted = make_adapter(model)
    adapted.save_pretrained(FOLDER / "adapter")
    adapted_double = copy.deepcopy(adapted).double()
    lora = adapted_double(input_ids=ids, labels=labels, use_cache=False)
    lora.loss.backward()
    tensors["lora_logits"] = lora.logits.detach()
    for name, parameter in adapted_double.named_parameters():
        if parameter.requires_grad:
            tensors[f"grad.{name}"] = parameter.grad
    losses, norms = train_curve(adapted, batches)

    stored = {name: tensor.int() if tensor.dtype == torch.int64 else tensor.float() for name, tensor in tensors.items()}
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, FOLDER / "golden.safetensors")
    facts = {
        "loss": loss,
        "lora_loss": lora.loss.item(),
        "train_curve": losses,
        "grad_norms": norms,
        "train": TRAIN,
        "versions": {"peft": peft.__version__, "transformers": transformers.__version__, "torch": torch.__version__},
    }
    (FOLDER / "golden.json").write_text(json.dumps(facts, indent=1) + "\n")


main()
