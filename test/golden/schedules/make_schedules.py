"""Writes schedules.json: learning rates of transformers' get_scheduler, step by step. Run: python make_schedules.py schedules.json"""
import json
import sys
import warnings

import torch
import transformers
from transformers.optimization import get_scheduler

warnings.filterwarnings("ignore")
PEAK, TOTAL, STEPS = 2e-3, 23, 26
CASES = [
    ("linear", 0, {}),
    ("linear", 5, {}),
    ("cosine", 4, {}),
    ("cosine", 0, {"num_cycles": 1.5}),
    ("cosine_with_restarts", 3, {}),
    ("cosine_with_restarts", 3, {"num_cycles": 4}),
    ("polynomial", 3, {}),
    ("polynomial", 0, {"lr_end": 1e-4, "power": 2.0}),
    ("constant", 0, {}),
    ("constant_with_warmup", 6, {}),
    ("inverse_sqrt", 0, {}),
    ("inverse_sqrt", 5, {}),
    ("inverse_sqrt", 5, {"timescale": 9}),
    ("cosine_with_min_lr", 4, {"min_lr": 3e-4}),
    ("cosine_with_min_lr", 4, {"min_lr_rate": 0.1, "num_cycles": 1.0}),
    ("cosine_warmup_with_min_lr", 4, {"min_lr": 3e-4}),
    ("cosine_warmup_with_min_lr", 4, {"min_lr_rate": 0.1, "warmup_lr_rate": 0.2}),
    ("cosine_warmup_with_min_lr", 1, {"min_lr_rate": 0.1, "warmup_lr_rate": 0.5}),
    ("warmup_stable_decay", 4, {"num_decay_steps": 7}),
    ("warmup_stable_decay", 4, {"num_decay_steps": 7, "num_stable_steps": 6, "min_lr_ratio": 0.1, "decay_type": "linear"}),
    ("warmup_stable_decay", 4, {"num_decay_steps": 9, "warmup_type": "cosine", "decay_type": "1-sqrt"}),
    ("warmup_stable_decay", 4, {"num_decay_steps": 9, "warmup_type": "1-sqrt", "num_cycles": 1.0}),
]
METRICS = [3.0, 2.5, 2.5, 2.49999, 2.6, 2.7, 2.2, 2.3, 2.3, 2.3, 2.3, 2.19, 2.19, 2.19, 2.19, 2.19]
PLATEAUS = [
    {"patience": 1},
    {"patience": 0, "factor": 0.5, "cooldown": 2},
    {"patience": 1, "factor": 0.5, "min_lr": 7e-4, "threshold": 0.05, "threshold_mode": "abs"},
    {"patience": 1, "factor": 0.5, "mode": "max", "eps": 3e-4},
]


def optimizer():
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)


def course(name, warmup, kwargs):
    owner = optimizer()
    scheduler = get_scheduler(name, owner, warmup, TOTAL, scheduler_specific_kwargs=kwargs)
    rates = []
    for _ in range(STEPS):
        rates.append(owner.param_groups[0]["lr"])
        owner.step()
        scheduler.step()
    return rates


def plateau(kwargs):
    owner = optimizer()
    scheduler = get_scheduler("reduce_lr_on_plateau", owner, scheduler_specific_kwargs=kwargs)
    rates = []
    for metric in METRICS:
        scheduler.step(metric)
        rates.append(owner.param_groups[0]["lr"])
    return rates


golden = {
    "made_with": f"transformers {transformers.__version__}, torch {torch.__version__}",
    "learning_rate": PEAK,
    "total_steps": TOTAL,
    "courses": [{"type": n, "warmup_steps": w, "kwargs": k, "rates": course(n, w, k)} for n, w, k in CASES],
    "metrics": METRICS,
    "plateaus": [{"kwargs": k, "rates": plateau(k)} for k in PLATEAUS],
}
with open(sys.argv[1], "w") as file:
    json.dump(golden, file, indent=1)
    file.write("\n")
