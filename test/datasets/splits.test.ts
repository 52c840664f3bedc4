// SPDX-License-Identifier: Apache-2.0
/** Which file names make which split. */
import { expect, it } from 'vitest';
import { filesOfSplit } from '../../datasets/splits.ts';

it.each([
  [['quotes.jsonl'], 'train', ['quotes.jsonl']],
  [['b.jsonl', 'a.jsonl'], 'train', ['a.jsonl', 'b.jsonl']],
  [['quotes.jsonl'], 'test', []],
  [['train.jsonl', 'test.jsonl', 'extra.jsonl'], 'train', ['train.jsonl']],
  [['test.jsonl', 'extra.jsonl'], 'train', []],
  [['my-training-set.jsonl', 'dev.jsonl'], 'validation', ['dev.jsonl']],
  [['quotes_train.jsonl', 'constrained.jsonl'], 'train', ['quotes_train.jsonl']],
  [['train1.jsonl', 'TRAIN2.jsonl'], 'train', ['TRAIN2.jsonl', 'train1.jsonl']],
  [['train/a.jsonl', 'eval/b.jsonl'], 'test', ['eval/b.jsonl']],
  [['train.jsonl', 'part.v2+x.jsonl'], 'v2+x', ['part.v2+x.jsonl']],
])('%j, %s', (paths, split, files) => {
  expect(filesOfSplit(paths, split)).toEqual(files);
});
