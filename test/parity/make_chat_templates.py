# SPDX-License-Identifier: Apache-2.0
"""Writes test/tokenizer/chat_templates.json: conversations as transformers renders them. Run from the repository root."""
import json

from transformers import AutoTokenizer

CHATML = (
    "{% for message in messages %}\n"
    "  {% if loop.first and message['role'] != 'system' %}\n"
    "    {{- '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}\n"
    "  {% endif %}\n"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}\n"
    "  {{- '<|im_start|>assistant\\n' }}\n"
    "{%- endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ m['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
TOOLS = (
    "{% if tools %}{% for t in tools %}{{ t.function.name }}: {{ t | tojson }}\n{% endfor %}{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}/no_think\n{% endif %}{{ messages[-1].content }}"
)
NAMESPACE = (
    "{% set ns = namespace(system='') %}{% for m in messages if m.role == 'system' %}{% set ns.system = m.content %}{% endfor %}"
    "{% macro turn(m) %}{{ m.role | upper }}: {{ m.content }}{% endmacro %}"
    "{{ ns.system }}{% for m in messages[1:] %}{{ turn(m) }}{{ '\\n' if not loop.last }}{% endfor %}"
)
MASKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content + '\\n' }}{% endif %}{% endfor %}"
)
TURNS = [
    {"role": "user", "content": " Define love. "},
    {"role": "assistant", "content": "A temporary insanity."},
    {"role": "user", "content": "And war — 戦争?"},
]
SYSTEM = [{"role": "system", "content": "You are Bierce."}, *TURNS]
LOOK_UP = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}

CASES = [
    {"template": CHATML, "messages": TURNS},
    {"template": CHATML, "messages": TURNS, "add_generation_prompt": True},
    {"template": CHATML, "messages": SYSTEM},
    {"template": INST, "messages": TURNS},
    {"template": INST, "messages": TURNS[:1] * 2},
    {"template": TOOLS, "messages": TURNS, "tools": [LOOK_UP], "variables": {"enable_thinking": False}},
    {"template": TOOLS, "messages": TURNS},
    {"template": NAMESPACE, "messages": SYSTEM},
    {"template": MASKED, "messages": TURNS},
]

tokenizer = AutoTokenizer.from_pretrained("models/mamba-5m")
for case in CASES:
    options = {key: case[key] for key in ("add_generation_prompt", "tools") if key in case}
    try:
        case["text"] = tokenizer.apply_chat_template(
            case["messages"], chat_template=case["template"], tokenize=False, **options, **case.get("variables", {})
        )
    except Exception as error:
        case["error"] = str(error)
with open("test/tokenizer/chat_templates.json", "w") as file:
    json.dump(CASES, file, indent=1, ensure_ascii=False)
    file.write("\n")
