// SPDX-License-Identifier: Apache-2.0
/** Chat templates: what transformers renders (chat_templates.json, by test/parity/make_chat_templates.py), and what is refused. */
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { UserError } from '../../src/errors.ts';
import type { ChatMessage } from '../../src/tokenizer/chat_template.ts';
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

interface Case {
  template: string;
  messages: ChatMessage[];
  add_generation_prompt?: boolean;
  tools?: unknown[];
  variables?: Record<string, unknown>;
  text?: string;
  error?: string;
}

const cases: Case[] = JSON.parse(readFileSync(join(import.meta.dirname, 'chat_templates.json'), 'utf8'));
const MODEL = 'models/mamba-5m';
const HELLO: ChatMessage[] = [{ role: 'user', content: 'Hello' }];

/** A tokenizer whose tokenizer_config.json has this `chat_template`. */
function withTemplate(chat_template: unknown, jinjaFile?: string) {
  const folder = join(temporaryFolder(), 'tokenizer');
  cpSync(MODEL, folder, { recursive: true });
  writeFileSync(
    join(folder, 'tokenizer_config.json'),
    JSON.stringify({ bos_token: '<|endoftext|>', eos_token: { content: '<|endoftext|>' }, chat_template }),
  );
  if (jinjaFile !== undefined) writeFileSync(join(folder, 'chat_template.jinja'), jinjaFile);
  return { folder, load: () => loadTokenizer(folder) };
}

test.each(cases)('$template, from tokenizer_config.json and given', (row) => {
  const { template, messages, add_generation_prompt: addGenerationPrompt, tools, variables, text, error } = row;
  const options = { addGenerationPrompt, tools, variables };
  const renders = [
    () => withTemplate(template).load().applyChatTemplate(messages, options),
    () => loadTokenizer(MODEL).applyChatTemplate(messages, { ...options, chatTemplate: template }),
  ];
  for (const render of renders) {
    if (text === undefined) expect(render).toThrow(`failed: ${error}.`);
    else expect(render()).toBe(text);
  }
});

test('a template may be a file of its own, or one of several by name', () => {
  expect(withTemplate('A', 'B').load().applyChatTemplate(HELLO)).toBe('B');
  const named = withTemplate([
    { name: 'tool_use', template: 'tools' },
    { name: 'default', template: 'plain' },
  ]).load();
  expect(named.chatTemplate).toBe('plain');
  expect(named.applyChatTemplate(HELLO)).toBe('plain');
  expect(named.applyChatTemplate(HELLO, { tools: [{}] })).toBe('tools');
});

test('an unknown special token renders as nothing', () => {
  expect(withTemplate('[{{ pad_token }}]').load().applyChatTemplate(HELLO)).toBe('[]');
});

describe('errors', () => {
  test('no template', () => {
    const render = () => loadTokenizer(MODEL).applyChatTemplate(HELLO);
    expect(render).toThrow(UserError);
    expect(render).toThrow(
      /mamba-5m\/tokenizer_config\.json: the tokenizer has no chat template.*give a template, or the text itself/,
    );
  });

  test('none of that name', () => {
    const { load } = withTemplate([{ name: 'rag', template: 'x' }]);
    expect(() => load().applyChatTemplate(HELLO)).toThrow(/found the chat templates rag, but none named default/);
  });

  test('what is no template', () => {
    const { folder, load } = withTemplate({ default: 'x' });
    expect(load).toThrow(`${folder}/tokenizer_config.json: chat_template is neither a text nor a list`);
  });

  test('a template that is wrong: where it is from', () => {
    const { folder, load } = withTemplate('{% for m in messages %}');
    expect(() => load().applyChatTemplate(HELLO)).toThrow(
      `${folder}/tokenizer_config.json: the chat template failed: `,
    );
    expect(() => loadTokenizer(MODEL).applyChatTemplate(HELLO, { chatTemplate: '{{ x(' })).toThrow(
      /^the given chat template failed: /,
    );
  });
});
