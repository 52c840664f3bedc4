// SPDX-License-Identifier: Apache-2.0
/** Messages and instructions, from the record to the token: what is written, and what of it carries loss. */
import { describe, expect, it } from 'vitest';
import { type ChatTemplateName, type DataRecord, type TokenizeOptions, tokenizeDataset } from '../../datasets/index.ts';
import { recordParser } from '../../datasets/records.ts';
import { UserError } from '../../src/errors.ts';
import type { ChatMessage } from '../../src/tokenizer/chat_template.ts';
import { loadTokenizer, type Tokenizer } from '../../src/tokenizer/tokenizer.ts';

const base = loadTokenizer('models/mamba-5m');
const EOS = '<|endoftext|>';

/** The tokenizer with a chat template of its own. */
function withTemplate(chatTemplate: string): Tokenizer {
  const applyChatTemplate: Tokenizer['applyChatTemplate'] = (messages, options) =>
    base.applyChatTemplate(messages, { ...options, chatTemplate });
  return Object.assign((text: string | readonly string[]) => base(text), { ...base, chatTemplate, applyChatTemplate });
}

const TALK: ChatMessage[] = [
  { role: 'system', content: 'Be brief.' },
  { role: 'user', content: 'Define love.' },
  { role: 'assistant', content: 'A temporary insanity.' },
  { role: 'user', content: 'And war?' },
  { role: 'assistant', content: 'A by-product of peace.' },
];

function recordOf(value: object): DataRecord {
  return recordParser()(value, { file: 'chat.jsonl', line: 4 });
}

/** The whole text, and each run of tokens that carries loss. */
function learned(value: object, options: TokenizeOptions, tokenizer: Tokenizer = base) {
  const record = recordOf(value);
  const dataset = { name: 'chat.jsonl', records: [record] };
  const { examples, report } = tokenizeDataset(dataset, tokenizer, options);
  const { inputIds = new Int32Array(), labels = new Int32Array() } = examples[0] ?? {};
  const runs: number[][] = [];
  labels.forEach((label, position) => {
    if (label === -100) return;
    expect(label).toBe(inputIds[position]);
    if (position > 0 && labels[position - 1] !== -100) runs.at(-1)?.push(label);
    else runs.push([label]);
  });
  return { text: base.decode([...inputIds]), runs: runs.map((run) => base.decode(run)), report };
}

describe('messages', () => {
  it.each<[ChatTemplateName, string, string[]]>([
    [
      'chatml',
      '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nDefine love.<|im_end|>\n<|im_start|>assistant\nA temporary insanity.<|im_end|>\n' +
        `<|im_start|>user\nAnd war?<|im_end|>\n<|im_start|>assistant\nA by-product of peace.<|im_end|>\n${EOS}`,
      ['A temporary insanity.<|im_end|>\n', `A by-product of peace.<|im_end|>\n${EOS}`],
    ],
    [
      'zephyr',
      `<|system|>\nBe brief.${EOS}\n<|user|>\nDefine love.${EOS}\n<|assistant|>\nA temporary insanity.${EOS}\n` +
        `<|user|>\nAnd war?${EOS}\n<|assistant|>\nA by-product of peace.${EOS}\n`,
      [`A temporary insanity.${EOS}\n`, `A by-product of peace.${EOS}\n`],
    ],
    [
      'alpaca',
      `Be brief.\n\n### Instruction:\nDefine love.\n\n### Response:\nA temporary insanity.${EOS}\n\n` +
        `### Instruction:\nAnd war?\n\n### Response:\nA by-product of peace.${EOS}\n\n`,
      [`A temporary insanity.${EOS}\n\n`, `A by-product of peace.${EOS}\n\n`],
    ],
    [
      'plain',
      `Be brief.\n\nUser: Define love.\nAssistant: A temporary insanity.${EOS}\nUser: And war?\nAssistant: A by-product of peace.${EOS}\n`,
      [` A temporary insanity.${EOS}\n`, ` A by-product of peace.${EOS}\n`],
    ],
  ])('as %s', (chatTemplate, text, runs) => {
    expect(learned({ messages: TALK }, { chatTemplate })).toMatchObject({
      text,
      runs,
      report: { promptMismatches: 0 },
    });
    const last = learned({ messages: TALK }, { chatTemplate, assistantTurns: 'last' });
    expect(last).toMatchObject({ text, runs: runs.slice(-1) });
    const all = learned({ messages: TALK }, { chatTemplate, completionOnlyLoss: false });
    expect(all).toMatchObject({ text, runs: [text] });
  });

  it("by the tokenizer's own template, which is asked for nothing else", () => {
    const own = withTemplate(
      '{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}',
    );
    const talk = TALK.slice(1, 3);
    const expected = {
      text: `[user]Define love.${EOS}[assistant]A temporary insanity.${EOS}`,
      runs: [`A temporary insanity.${EOS}`],
    };
    expect(learned({ messages: talk }, {}, own)).toMatchObject(expected);
    expect(learned({ messages: talk }, { chatTemplate: 'tokenizer' }, own)).toMatchObject(expected);
  });

  it('of ShareGPT are messages too', () => {
    const conversations = [
      { from: 'human', value: 'Define love.' },
      { from: 'gpt', value: 'Folly.' },
    ];
    expect(learned({ conversations }, { chatTemplate: 'plain' })).toMatchObject({
      text: `User: Define love.\nAssistant: Folly.${EOS}\n`,
      runs: [` Folly.${EOS}\n`],
    });
  });

  it('that the assistant does not end give no loss behind its last turn', () => {
    const { text, runs } = learned({ messages: TALK.slice(0, 4) }, { chatTemplate: 'chatml' });
    expect(text).toMatch(/And war\?<\|im_end\|>\n<\|endoftext\|>$/);
    expect(runs).toEqual(['A temporary insanity.<|im_end|>\n']);
  });

  it('without an assistant leave nothing to learn', () => {
    expect(() => learned({ messages: TALK.slice(0, 2) }, { chatTemplate: 'plain' })).toThrow(
      'chat.jsonl: none of 1 records leaves a token to learn from',
    );
  });

  it('need a template, and one that writes a beginning as the beginning', () => {
    expect(() => learned({ messages: TALK }, {})).toThrow(
      new UserError(
        'chat.jsonl:4: the record has messages, and the tokenizer has no chat template; set chat_template to one of chatml, alpaca, zephyr, plain',
      ),
    );
    const lastOnly = withTemplate(
      "{% for m in messages %}{% if m.role != 'assistant' or loop.last %}{{ m.content }}|{% endif %}{% endfor %}",
    );
    expect(() => learned({ messages: TALK }, {}, lastOnly)).toThrow(
      /^chat\.jsonl:4: the chat template renders messages 0 to 2 otherwise than as the beginning of the whole, .* set chat_template to another, or assistant_turns: last, or completion_only_loss: false$/,
    );
    expect(learned({ messages: TALK.slice(0, 3) }, { assistantTurns: 'last' }, lastOnly).runs).toHaveLength(1);
    const refusing = withTemplate("{{ raise_exception('no system messages') }}");
    expect(() => learned({ messages: TALK }, {}, refusing)).toThrow(
      /^chat\.jsonl:4: the given chat template failed: .*no system messages/,
    );
  });

  it.each([
    [{ messages: 'hello' }, 'field messages is a string; expected an array of messages {"role", "content"}'],
    [{ messages: [] }, 'field messages is an empty array; expected an array of messages {"role", "content"}'],
    [{ messages: [{ role: 'user' }] }, 'messages[0].content is undefined; expected a string'],
    [
      { messages: [{ role: 'user', content: 'a' }, { speaker: 'b' }] },
      'messages[1] is an object with the fields speaker;',
    ],
    [{ messages: ['a'] }, 'messages[0] is a string; expected a message {"role", "content"} or {"from", "value"}'],
  ])('that are none: %j', (value, message) => {
    expect(() => recordOf(value)).toThrow(`chat.jsonl:4: ${message}`);
  });
});

describe('instructions', () => {
  const record = { instruction: 'Translate.', input: 'amour', output: 'love' };

  it("are written in Alpaca's form, with and without input", () => {
    const { text, runs } = learned(record, {});
    expect(text).toBe(
      'Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n' +
        `### Instruction:\nTranslate.\n\n### Input:\namour\n\n### Response:\nlove${EOS}`,
    );
    expect(runs).toEqual([`love${EOS}`]);
    for (const input of ['', null]) {
      expect(learned({ ...record, input }, { chatTemplate: 'alpaca' }).text).toBe(
        `Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nTranslate.\n\n### Response:\nlove${EOS}`,
      );
    }
  });

  it('are a question and an answer to every other template', () => {
    expect(learned(record, { chatTemplate: 'plain' })).toMatchObject({
      text: `User: Translate.\n\namour\nAssistant: love${EOS}\n`,
      runs: [` love${EOS}\n`],
    });
    expect(() => learned(record, { chatTemplate: 'tokenizer' })).toThrow(/the tokenizer has no chat template/);
  });

  it('have other field names, nested ones too', () => {
    const parse = recordParser({ instructionField: 'task.question', outputField: 'a.b' });
    const origin = { file: 'x.parquet', row: 2 };
    expect(parse({ task: { question: 'Why?' }, 'a.b': 'So.', a: {} }, origin)).toEqual({
      ...origin,
      kind: 'instruction',
      instruction: 'Why?',
      input: '',
      output: 'So.',
    });
    expect(() => parse({ task: {}, a: { b: 'c' } }, origin)).toThrow(
      "x.parquet: row 2: field task.question is missing; the record's fields are task, a",
    );
    expect(() => recordParser({ inputField: 'context' })({ instruction: 'a', output: 'b' }, origin)).toThrow(
      'field context is missing',
    );
  });
});
