// SPDX-License-Identifier: Apache-2.0
/** Chat templates for tokenizers that bring none, by the names they are known under. Variables as in `renderChat`. */

const NEEDS_EOS = `{%- if not eos_token %}{{ raise_exception('it ends answers with the eos_token, and the tokenizer has none') }}{% endif -%}`;

export const NAMED_CHAT_TEMPLATES = {
  /** `<|im_start|>role`, the content, `<|im_end|>` for every message. */
  chatml: `{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}`,

  /** Stanford Alpaca's headings; its preamble when the messages bring no system message. */
  alpaca: `${NEEDS_EOS}
{%- if messages[0].role != 'system' %}{{ 'Below is an instruction that describes a task. Write a response that appropriately completes the request.\\n\\n' }}{% endif -%}
{%- for message in messages -%}
{%- if message.role == 'system' %}{{ message.content + '\\n\\n' }}
{%- elif message.role == 'assistant' %}{{ '### Response:\\n' + message.content + eos_token + '\\n\\n' }}
{%- else %}{{ '### Instruction:\\n' + message.content + '\\n\\n' }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '### Response:\\n' }}{% endif -%}`,

  /** `<|role|>`, the content and the end of text for every message. */
  zephyr: `${NEEDS_EOS}
{%- for message in messages %}{{ '<|' + message.role + '|>\\n' + message.content + eos_token + '\\n' }}{% endfor -%}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif -%}`,

  /** `User:` and `Assistant:`, a line each; answers end with the end of text. */
  plain: `${NEEDS_EOS}
{%- for message in messages -%}
{%- if message.role == 'system' %}{{ message.content + '\\n\\n' }}
{%- elif message.role == 'assistant' %}{{ 'Assistant: ' + message.content + eos_token + '\\n' }}
{%- else %}{{ 'User: ' + message.content + '\\n' }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif -%}`,
} as const;

export type NamedChatTemplate = keyof typeof NAMED_CHAT_TEMPLATES;
