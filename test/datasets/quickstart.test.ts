// SPDX-License-Identifier: Apache-2.0
/** The quickstart's data through its model's tokenizer. */
import { expect, it } from 'vitest';
import { loadDataset, tokenizeDataset } from '../../datasets/index.ts';
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts';

const root = new URL('../../', import.meta.url).pathname;
const tokenizer = loadTokenizer(`${root}models/mamba-5m`);

it.each([
  ['train', { records: 840, truncated: 33, longest: 704, skipped: 0, promptMismatches: 0, tokens: 58_160 }],
  ['test', { records: 97, truncated: 5, longest: 471, skipped: 0, promptMismatches: 0, tokens: 7_089 }],
])(
  '%s: prompt and completion tokenized as one text are the tokens of both, then the end of text',
  async (split, counts) => {
    const dataset = await loadDataset(`${root}datasets/quickstart`, { split });
    const { examples, report } = tokenizeDataset(dataset, tokenizer, { maxLength: 256, completionOnlyLoss: false });
    expect(report).toMatchObject(counts);
    expect(report.lossTokens).toBe(report.tokens - report.records);
    dataset.records.forEach((record, index) => {
      if (record.kind !== 'prompt-completion') throw new Error(`found a record of ${record.kind}`);
      const prompt = tokenizer.encode(record.prompt);
      const parts = [...prompt, ...tokenizer.encode(record.completion), 0].slice(0, 256);
      expect([...(examples[index]?.inputIds ?? [])]).toEqual(parts);
      expect(examples[index]?.promptLength).toBe(prompt.length);
    });
  },
);
