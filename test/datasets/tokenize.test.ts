// SPDX-License-Identifier: Apache-2.0
/** Ids, labels and masks, token by token. */
import { describe, expect, it } from 'vitest';
import {
  type DataRecord,
  type Dataset,
  type TokenizeOptions,
  tokenizeDataset,
  tokenizeMessages,
} from '../../datasets/index.ts';
import { UserError } from '../../src/errors.ts';
import { EOS, fakeTokenizer } from './fake_tokenizer.ts';

type Content = string | { prompt: string; completion: string } | { inputIds: number[]; labels?: number[] };

function dataset(...contents: Content[]): Dataset {
  const records = contents.map((content, index): DataRecord => {
    const origin = { file: 'data.jsonl', line: index + 1 };
    if (typeof content === 'string') return { ...origin, kind: 'text', text: content };
    if ('prompt' in content) return { ...origin, kind: 'prompt-completion', ...content };
    const { inputIds, labels } = content;
    return {
      ...origin,
      kind: 'input-ids',
      inputIds: Int32Array.from(inputIds),
      ...(labels && { labels: Int32Array.from(labels) }),
    };
  });
  return { name: 'data.jsonl', records };
}

function tokenize(data: Dataset, options: TokenizeOptions = {}) {
  const { examples, report } = tokenizeDataset(data, fakeTokenizer(), options);
  return {
    examples: examples.map((example) => ({
      ids: [...example.inputIds],
      labels: [...example.labels],
      promptLength: example.promptLength,
    })),
    report,
    messages: tokenizeMessages(report),
  };
}

describe('text', () => {
  it('carries loss everywhere and ends with the end of text', () => {
    expect(tokenize(dataset('cab')).examples).toEqual([{ ids: [3, 28, EOS], labels: [3, 28, EOS], promptLength: 0 }]);
  });

  it('gets no second end of text, and none without append_eos', () => {
    expect(tokenize(dataset('ca\0')).examples[0]?.ids).toEqual([3, 1, EOS]);
    expect(tokenize(dataset('ca'), { appendEos: false }).examples[0]?.ids).toEqual([3, 1]);
  });

  it('cannot be ended by a tokenizer without end of text', () => {
    const tokenizer = { ...fakeTokenizer(), encode: fakeTokenizer().encode, eosTokenId: undefined };
    const bare = Object.assign(() => ({ inputIds: [], attentionMask: [] }), tokenizer);
    expect(() => tokenizeDataset(dataset('ca'), bare)).toThrow(
      /^append_eos is true, but the tokenizer has no eos_token/,
    );
    expect(tokenizeDataset(dataset('ca'), bare, { appendEos: false }).examples).toHaveLength(1);
  });
});

describe('prompt and completion', () => {
  const pair = { prompt: 'cd', completion: ' ef' };

  it('masks the prompt by default and with completion_only_loss', () => {
    const masked = [{ ids: [3, 4, 27, 5, 6, EOS], labels: [-100, -100, 27, 5, 6, EOS], promptLength: 2 }];
    expect(tokenize(dataset(pair)).examples).toEqual(masked);
    expect(tokenize(dataset(pair), { completionOnlyLoss: true }).examples).toEqual(masked);
  });

  it('masks nothing when completion_only_loss is false', () => {
    expect(tokenize(dataset(pair), { completionOnlyLoss: false }).examples).toEqual([
      { ids: [3, 4, 27, 5, 6, EOS], labels: [3, 4, 27, 5, 6, EOS], promptLength: 2 },
    ]);
  });

  it('tokenizes both as one text, masks as many tokens as the prompt has alone, and counts where they differ', () => {
    const split = { prompt: 'ca', completion: 'be' };
    const { examples, messages } = tokenize(dataset(pair, split));
    expect(examples[1]).toEqual({ ids: [3, 28, 5, EOS], labels: [-100, -100, 5, EOS], promptLength: 2 });
    expect(messages).toEqual([
      'data.jsonl: in 1 of 2 records the tokens of a prompt are not the first tokens of prompt and answer, so the loss mask may be off by a token; begin completions with a space or end prompts with a line break',
    ]);
    expect(tokenize(dataset(split), { completionOnlyLoss: false }).messages).toEqual([]);
  });

  it('with an empty completion learns the end of text alone', () => {
    expect(tokenize(dataset({ prompt: 'cd', completion: '' })).examples[0]?.labels).toEqual([-100, -100, EOS]);
  });
});

describe('token ids', () => {
  it('go in as they are, with their labels', () => {
    const { examples } = tokenize(dataset({ inputIds: [5, 6, 7], labels: [-100, 6, 7] }, { inputIds: [5, 6] }));
    expect(examples).toEqual([
      { ids: [5, 6, 7], labels: [-100, 6, 7], promptLength: 0 },
      { ids: [5, 6], labels: [5, 6], promptLength: 0 },
    ]);
  });

  it.each([
    [{ inputIds: [5, 29] }, {}, "data.jsonl:1: token 1 has id 29; the model's vocabulary has 29 ids, from 0."],
    [
      { inputIds: [5, 6], labels: [-100, 40] },
      {},
      "data.jsonl:1: token 1 has id 40; the model's vocabulary has 29 ids",
    ],
    ['cz', { vocabSize: 20 }, "data.jsonl:1: token 1 has id 26; the model's vocabulary has 20 ids"],
  ])('outside the vocabulary are refused: %j', (content, options, message) => {
    expect(() => tokenize(dataset(content), options)).toThrow(UserError);
    expect(() => tokenize(dataset(content), options)).toThrow(message);
  });
});

describe('completion_only_loss: true', () => {
  it.each([
    [
      'cd',
      'data.jsonl:1: completion_only_loss is true, but the record is a text; expected prompt and completion, messages, or instruction and output',
    ],
    [{ inputIds: [1, 2] }, 'data.jsonl:1: completion_only_loss is true, but the record is input_ids without labels'],
  ])('refuses %j', (content, message) => {
    expect(() => tokenize(dataset(content), { completionOnlyLoss: true })).toThrow(message);
  });

  it('takes ids that bring their labels', () => {
    const data = dataset({ inputIds: [1, 2], labels: [-100, 2] });
    expect(tokenize(data, { completionOnlyLoss: true }).examples[0]?.labels).toEqual([-100, 2]);
  });
});

describe('max_length', () => {
  it('cuts longer records, end of text included, and tells how many', () => {
    const { examples, report, messages } = tokenize(dataset('cde', 'cdefg', 'cdef'), { maxLength: 4 });
    expect(examples.map((example) => example.ids)).toEqual([
      [3, 4, 5, EOS],
      [3, 4, 5, 6],
      [3, 4, 5, 6],
    ]);
    expect(report).toMatchObject({ truncated: 2, longest: 6, tokens: 12, lossTokens: 9 });
    expect(messages).toEqual([
      'data.jsonl: 2 of 3 records were longer than max_length 4 and were cut (the longest has 6 tokens)',
    ]);
  });

  it('leaves out records of which only masked tokens remain, and tells how many', () => {
    const { examples, report, messages } = tokenize(
      dataset({ prompt: 'cdef', completion: ' g' }, { prompt: 'c', completion: ' g' }),
      { maxLength: 4 },
    );
    expect(examples).toEqual([{ ids: [3, 27, 7, EOS], labels: [-100, 27, 7, EOS], promptLength: 1 }]);
    expect(report.skipped).toBe(1);
    expect(messages[1]).toBe('data.jsonl: 1 of 2 records were left out: no token of theirs carries loss');
  });

  it('leaves out records of one token, which predict nothing', () => {
    const { examples, report } = tokenize(dataset('', 'c'));
    expect(examples.map((example) => example.ids)).toEqual([[3, EOS]]);
    expect(report).toMatchObject({ skipped: 1, lossTokens: 1 });
  });

  it('refuses a dataset of which nothing remains', () => {
    expect(() => tokenize(dataset({ prompt: 'cdef', completion: 'g' }), { maxLength: 4 })).toThrow(
      'data.jsonl: none of 1 records leaves a token to learn from; check max_length (4) and completion_only_loss',
    );
  });
});
