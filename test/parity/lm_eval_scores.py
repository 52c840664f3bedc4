# SPDX-License-Identifier: Apache-2.0
"""Scores multiple-choice items with lm-evaluation-harness and its own HF model: one JSON request on stdin, one JSON answer on stdout."""
import contextlib
import importlib.machinery
import importlib.util
import json
import sys
import types

# lm_eval imports these for metrics that are not used here; they need not be installed.
for name in ("evaluate", "sacrebleu"):
    if importlib.util.find_spec(name) is None:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)

try:
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM
except ImportError as error:
    print(json.dumps({"missing": str(error)}))
    sys.exit(0)


def scores(model, items, target_delimiter):
    config = {
        "task": "items",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": items}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": target_delimiter,
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    runner = HFLM(pretrained=model, device="cpu", dtype="float32", batch_size=4)
    found = lm_eval.simple_evaluate(model=runner, tasks=[ConfigurableTask(config=config)], bootstrap_iters=0)
    samples = sorted(found["samples"]["items"], key=lambda sample: sample["doc_id"])
    return {
        "acc": found["results"]["items"]["acc,none"],
        "acc_norm": found["results"]["items"]["acc_norm,none"],
        "likelihoods": [[float(response[0]) for response in sample["filtered_resps"]] for sample in samples],
    }


request = json.load(sys.stdin)
with contextlib.redirect_stdout(sys.stderr):
    answer = scores(**request)
print(json.dumps(answer))
