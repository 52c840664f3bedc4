// SPDX-License-Identifier: Apache-2.0
/** Mixed sources: how often each record comes, in which order, and the config that names them. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadExamples, type Sequence } from '../../datasets/index.ts';
import { mixSequences } from '../../datasets/mixture.ts';
import { fakeTokenizer } from './fake_tokenizer.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'mambatune-mixture-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** n sequences whose ids tell part and index. */
function part(number: number, n: number): Sequence[] {
  return Array.from({ length: n }, (_, index) => {
    const ids = Int32Array.of(number, index, ...Array.from({ length: index % 3 }, () => 0));
    return { inputIds: ids, labels: ids };
  });
}

function countsOf(parts: { examples: Sequence[]; weight: number }[], seed: number) {
  const mixture = mixSequences(parts, seed);
  const order = Array.from({ length: mixture.length }, (_, index) => mixture.at(index) as Sequence);
  expect(mixture.tokenCounts).toEqual(Int32Array.from(order, ({ inputIds }) => inputIds.length));
  expect(mixture.at(order.length)).toBeUndefined();
  const names = order.map(({ inputIds }) => `${inputIds[0]}:${inputIds[1]}`);
  const counts = new Map<string, number>();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return { names, counts };
}

describe('mixSequences', () => {
  it('repeats whole weights, picks for fractions, and mixes by the seed', () => {
    const parts = [
      { examples: part(0, 10), weight: 1 },
      { examples: part(1, 6), weight: 2.5 },
      { examples: part(2, 20), weight: 0.25 },
    ];
    const { names, counts } = countsOf(parts, 1);
    const ofPart = (number: number) => [...counts].filter(([name]) => name.startsWith(`${number}:`)).map(([, n]) => n);
    expect(ofPart(0)).toEqual(Array.from({ length: 10 }, () => 1));
    expect(ofPart(1).toSorted()).toEqual([2, 2, 2, 3, 3, 3]);
    expect(ofPart(2)).toEqual([1, 1, 1, 1, 1]);
    expect(names.slice(0, 10).every((name) => name.startsWith('0:'))).toBe(false);
    expect(countsOf(parts, 1).names).toEqual(names);
    expect(countsOf(parts, 2).names).not.toEqual(names);
    expect([...countsOf(parts, 2).counts.keys()].toSorted()).not.toEqual([...counts.keys()].toSorted());
  });
});

describe('data.train.sources', () => {
  it('mix what their files hold, each in its own way to read it, and are counted together', async () => {
    const [first, second] = [join(folder, 'a.jsonl'), join(folder, 'b.csv')];
    writeFileSync(first, '{"text": "cde"}\n{"text": "fg"}\n');
    writeFileSync(second, 'q,a\nhi,jk\n');
    const source = {
      sources: [
        { path: first, weight: 1 },
        { path: second, prompt_field: 'q', completion_field: 'a', weight: 3 },
      ],
    };
    const options = { seed: 4, onMessage: () => {}, maxLength: 16 };
    const { examples, report } = await loadExamples(source, fakeTokenizer(), options);
    const rows = Array.from({ length: examples.length }, (_, index) => [...(examples.at(index)?.labels ?? [])].join());
    expect(rows.toSorted()).toEqual([
      '-100,-100,10,11,0',
      '-100,-100,10,11,0',
      '-100,-100,10,11,0',
      '3,4,5,0',
      '6,7,0',
    ]);
    expect(report).toMatchObject({
      name: `${first} + ${second} x 3`,
      records: 3,
      tokens: 22,
      lossTokens: 14,
      longest: 5,
    });
    const other = await loadExamples(source, fakeTokenizer(), { ...options, seed: 5 });
    expect(other.report.sha256).not.toBe(report.sha256);
  });
});
