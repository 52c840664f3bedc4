# SPDX-License-Identifier: Apache-2.0
"""Writes test/generation/logits_processors.json: scores as transformers' logits processors leave them. Run from the repository root."""
import json

import torch
from transformers import GenerationConfig, MambaConfig, MambaForCausalLM
from transformers.generation import LogitsProcessorList

VOCAB = 12
EOS = [3, 5]
SETS = [
    {"temperature": 0.7},
    {"temperature": 1.9},
    {"top_k": 1},
    {"top_k": 4},
    {"top_p": 0.3},
    {"top_p": 0.8},
    {"min_p": 0.05},
    {"min_p": 0.4},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"min_new_tokens": 4},
    {"min_new_tokens": 3},
    {"temperature": 0.6, "top_k": 8, "top_p": 0.9, "min_p": 0.1},
    {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "min_new_tokens": 9, "temperature": 1.2, "top_k": 5},
]
CAMEL = {
    "temperature": "temperature", "top_k": "topK", "top_p": "topP", "min_p": "minP", "repetition_penalty": "repetitionPenalty",
    "no_repeat_ngram_size": "noRepeatNgramSize", "min_new_tokens": "minNewTokens",
}
PROMPT_LENGTH = 5
HISTORY = [7, 2, 9, 2, 9, 4, 7, 2]  # the last three were generated

model = MambaForCausalLM(MambaConfig(vocab_size=VOCAB, hidden_size=8, num_hidden_layers=1))
cases = []
for seed, values in enumerate(SETS):
    generation = GenerationConfig(do_sample=True, **{"top_k": 0, **values}, eos_token_id=EOS, pad_token_id=0)
    generation._eos_token_tensor = torch.tensor(EOS)
    processors = model._get_logits_processor(
        generation_config=generation, input_ids_seq_length=PROMPT_LENGTH, logits_processor=LogitsProcessorList(), device="cpu"
    )
    scores = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(seed)) * 2
    expected = processors(torch.tensor([HISTORY]), scores.clone())[0].tolist()
    cases.append({
        "name": " ".join(type(p).__name__ for p in processors),
        "options": {**{CAMEL[key]: value for key, value in values.items()}, "promptLength": PROMPT_LENGTH},
        "history": HISTORY,
        "scores": scores[0].tolist(),
        "expected": [None if value == float("-inf") else value for value in expected],
    })
with open("test/generation/logits_processors.json", "w") as file:
    file.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
