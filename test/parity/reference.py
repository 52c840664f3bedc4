# SPDX-License-Identifier: Apache-2.0
"""Reads what mambatune wrote with the programs that it is for: one JSON request a line on stdin, one JSON answer a line on stdout."""
import hashlib
import json
import sys

import numpy
import torch
import peft.tuners.tuners_utils
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as PluginEventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

PEFT_CHECK = peft.tuners.tuners_utils._check_lora_target_modules_mamba
# peft refuses out_proj on Mamba because the fused kernels of transformers bypass it; here they are not used.
peft.tuners.tuners_utils._check_lora_target_modules_mamba = lambda *args, **kwargs: None


def load(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    problems = {key: sorted(map(str, value)) for key, value in info.items() if value}
    if problems:
        raise ValueError(f"{folder}: {problems}")
    return model.eval()


def logits_of(model, input_ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor(input_ids), use_cache=False).logits.flatten().tolist()


def model_logits(model, input_ids):
    """Logits of a model folder, with what transformers makes of its config."""
    loaded = load(model)
    tied = loaded.lm_head.weight.data_ptr() == loaded.backbone.embeddings.weight.data_ptr()
    return {"logits": logits_of(loaded, input_ids), "tied": tied, "eos_token_id": loaded.generation_config.eos_token_id}


def adapter_logits(model, adapter, input_ids):
    """Logits of a model folder with an adapter folder."""
    loaded = PeftModel.from_pretrained(load(model), adapter)
    config = loaded.peft_config["default"]
    parameters = sum(p.numel() for name, p in loaded.named_parameters() if "lora_" in name)
    return {"logits": logits_of(loaded.eval(), input_ids), "r": config.r, "parameters": parameters}


def fresh_adapter(model, config, input_ids, output):
    """Logits of a model folder with a new adapter whose tensors are all random, which is written to the folder output."""
    torch.manual_seed(0)
    made = get_peft_model(load(model), LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    made.save_pretrained(output)
    return {"logits": logits_of(made.eval(), input_ids)}


class GivenMask(torch.nn.Module):
    """Dropout whose mask is given: what each element of the input is multiplied by."""

    def __init__(self, mask):
        super().__init__()
        self.mask = torch.tensor(mask, dtype=torch.float32)

    def forward(self, x):
        return x * self.mask.reshape(x.shape)


def gradients_with_masks(model, adapter, input_ids, masks):
    """Summed loss in training, and the gradient of every trainable tensor, with the dropout masks of the named modules."""
    loaded = PeftModel.from_pretrained(load(model), adapter, is_trainable=True).train()
    for name, module in loaded.base_model.model.named_modules():
        if name in masks:
            module.lora_dropout["default"] = GivenMask(masks[name])
    ids = torch.tensor(input_ids)
    logits = loaded(input_ids=ids, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    loss.backward()
    trained = {name: p for name, p in loaded.named_parameters() if p.requires_grad}
    return {
        "loss": loss.item(),
        "gradients": {
            name.replace(".default", "").removesuffix("lora_magnitude_vector.weight") + (
                "lora_magnitude_vector" if "lora_magnitude_vector" in name else ""
            ): p.grad.flatten().tolist()
            for name, p in trained.items()
        },
    }


def merged_by_peft(model, adapter, input_ids):
    """Logits of base and adapter, and after peft has merged them."""
    loaded = PeftModel.from_pretrained(load(model), adapter).eval()
    before = logits_of(loaded, input_ids)
    return {"before": before, "after": logits_of(loaded.merge_and_unload(), input_ids)}


def checked_adapter_logits(model, adapter, input_ids):
    """As adapter_logits, by peft as it comes: with its refusals."""
    patched = peft.tuners.tuners_utils._check_lora_target_modules_mamba
    peft.tuners.tuners_utils._check_lora_target_modules_mamba = PEFT_CHECK
    try:
        return adapter_logits(model, adapter, input_ids)
    finally:
        peft.tuners.tuners_utils._check_lora_target_modules_mamba = patched


def combine(model, adapters, weights, options, masks, output):
    """Writes what add_weighted_adapter makes of adapters to the folder output/combined. Random masks are given, in the order of their use."""
    given = iter(masks)
    bernoulli = torch.bernoulli
    torch.bernoulli = lambda tensor: torch.tensor(next(given), dtype=tensor.dtype).reshape(tensor.shape)
    try:
        loaded = PeftModel.from_pretrained(load(model), adapters[0], adapter_name="adapter_0")
        for i, adapter in enumerate(adapters[1:], 1):
            loaded.load_adapter(adapter, adapter_name=f"adapter_{i}")
        names = [f"adapter_{i}" for i in range(len(adapters))]
        loaded.add_weighted_adapter(names, weights, "combined", **options)
        loaded.save_pretrained(output, selected_adapters=["combined"])
        return {"masks_left": len(list(given))}
    finally:
        torch.bernoulli = bernoulli


def tensors(path):
    """What the safetensors library reads."""
    with safe_open(path, framework="pt") as file:
        read = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata()
    return {
        "metadata": metadata,
        "tensors": {
            name: {
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "shape": list(tensor.shape),
                "float32": hashlib.sha256(tensor.float().contiguous().numpy().tobytes()).hexdigest(),
            }
            for name, tensor in read.items()
        },
    }


def kolmogorov_smirnov(a, b):
    """Largest distance of the two samples' distribution functions, in units of its standard deviation."""
    points = numpy.concatenate([a, b])
    cdf = lambda sample: numpy.searchsorted(numpy.sort(sample), points, side="right") / len(sample)
    return float(numpy.abs(cdf(a) - cdf(b)).max() * numpy.sqrt(len(a) * len(b) / (len(a) + len(b))))


def init_distances(model, seed, rescale_prenorm_residual):
    """Every kind of tensor of a randomly initialised model folder against transformers' own of the same config."""
    torch.manual_seed(seed)
    config = MambaConfig.from_pretrained(model, rescale_prenorm_residual=rescale_prenorm_residual)
    theirs = MambaForCausalLM(config).state_dict()
    ours = load(model).state_dict()
    kinds = {}
    for name, tensor in ours.items():
        kind = ".".join(part for part in name.split(".") if not part.isdigit())
        kinds.setdefault(kind, []).append((tensor.flatten().numpy(), theirs[name].flatten().numpy()))
    answer = {}
    for kind, pairs in kinds.items():
        a, b = (numpy.concatenate(side) for side in zip(*pairs))
        drawn = not numpy.allclose(a, b, rtol=1e-6, atol=0)
        answer[kind] = {"drawn": drawn, "distance": kolmogorov_smirnov(a, b) if drawn else 0.0}
    return answer


def encode(model, texts):
    """Ids and the text that they give, by the tokenizers library."""
    tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    return {"ids": ids, "texts": tokenizer.decode_batch(ids, skip_special_tokens=False)}


def event_files(folder):
    """What TensorBoard reads of a folder of event files, by both of its accumulators."""
    legacy = EventAccumulator(folder, size_guidance={"scalars": 0, "histograms": 0, "tensors": 0}).Reload()
    plugins = PluginEventAccumulator(folder, size_guidance={"tensors": 0}).Reload()

    def hparams(tag):
        content = plugins.SummaryMetadata(tag).plugin_data.content
        return plugin_data_pb2.HParamsPluginData.FromString(content)

    session = hparams("_hparams_/session_start_info").session_start_info.hparams
    value = lambda v: getattr(v, v.WhichOneof("kind"))
    texts = plugins.PluginTagToContent("text")
    return {
        "scalars": {tag: [[e.step, e.value] for e in legacy.Scalars(tag)] for tag in legacy.Tags()["scalars"]},
        "plugin_scalars": sorted(plugins.PluginTagToContent("scalars")),
        "histograms": {
            tag: [
                {"step": e.step, "min": h.min, "max": h.max, "num": h.num, "sum": h.sum, "counts": sum(h.bucket)}
                for e in legacy.Histograms(tag)
                for h in [e.histogram_value]
            ]
            for tag in legacy.Tags()["histograms"]
        },
        "plugin_histograms": sorted(plugins.PluginTagToContent("histograms")),
        "texts": {
            tag: [[e.step, e.tensor_proto.string_val[0].decode()] for e in plugins.Tensors(tag)] for tag in texts
        },
        "hparams": {name: value(v) for name, v in session.items()},
        "experiment": sorted(h.name for h in hparams("_hparams_/experiment").experiment.hparam_infos),
        "metrics": [m.name.tag for m in hparams("_hparams_/experiment").experiment.metric_infos],
        "status": hparams("_hparams_/session_end_info").session_end_info.status,
    }


COMMANDS = {
    f.__name__: f
    for f in (
        model_logits,
        adapter_logits,
        fresh_adapter,
        gradients_with_masks,
        merged_by_peft,
        checked_adapter_logits,
        combine,
        tensors,
        init_distances,
        encode,
        event_files,
    )
}

for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = {"result": COMMANDS[request.pop("command")](**request)}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
