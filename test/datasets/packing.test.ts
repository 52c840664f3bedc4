// SPDX-License-Identifier: Apache-2.0
/** Packed rows: every document once, whole, apart from its neighbours. */
import { describe, expect, it } from 'vitest';
import { collate, packSequences, type Sequence } from '../../datasets/index.ts';
import { createRandom } from '../../src/random.ts';

function document(...ids: number[]): Sequence {
  return { inputIds: Int32Array.from(ids), labels: Int32Array.from(ids) };
}

const ofLength = (length: number, id = length): Sequence => document(...Array.from({ length }, () => id));

describe('packSequences', () => {
  it('joins documents, with the loss of each but on its first token', () => {
    const masked = { inputIds: Int32Array.of(7, 8, 9), labels: Int32Array.of(-100, -100, 9) };
    const rows = packSequences([document(1, 2, 3, 4, 5), masked, document(6, 5)], 10);
    expect(rows.length).toBe(1);
    expect(rows.at(0)).toEqual({
      inputIds: Int32Array.of(1, 2, 3, 4, 5, 7, 8, 9, 6, 5),
      labels: Int32Array.of(-100, 2, 3, 4, 5, -100, -100, 9, -100, 5),
      seqIdx: Int32Array.of(0, 0, 0, 0, 0, 1, 1, 1, 2, 2),
    });
    expect(rows.at(1)).toBeUndefined();
  });

  it('puts the longest first and each where it fits best; rows come in the order of their first documents', () => {
    const rows = packSequences(
      [3, 6, 4, 2, 5].map((length) => ofLength(length)),
      8,
    );
    expect(Array.from({ length: rows.length }, (_, row) => [...rows.documentsOf(row)])).toEqual([[0, 4], [1, 3], [2]]);
    expect(rows.tokenCounts).toEqual(Int32Array.of(8, 8, 4));
  });

  it('uses each of 2,000 documents once, in rows that are full but for little', () => {
    const random = createRandom({ seed: 5 });
    const documents = Array.from({ length: 2000 }, () => ofLength(2 + random.below(90)));
    const rows = packSequences(documents, 128);
    const used = Array.from({ length: rows.length }, (_, row) => [...rows.documentsOf(row)]);
    expect(used.flat().toSorted((a, b) => a - b)).toEqual(documents.map((_, index) => index));
    for (const [row, indices] of used.entries()) {
      expect(indices).toEqual(indices.toSorted((a, b) => a - b));
      expect(rows.at(row)?.inputIds.length).toBe(rows.tokenCounts[row]);
      expect(rows.tokenCounts[row]).toBeLessThanOrEqual(128);
    }
    const tokens = documents.reduce((sum, { inputIds }) => sum + inputIds.length, 0);
    expect(tokens / (rows.length * 128)).toBeGreaterThan(0.98);
  });

  it('takes a document as long as a row, and none that is longer', () => {
    expect(packSequences([ofLength(4), ofLength(4)], 4).length).toBe(2);
    expect(() => packSequences([ofLength(5)], 4)).toThrow('document 0 has 5 tokens, a row has 4');
  });
});

describe('collate', () => {
  it('makes padding a document of its own, and counts the losses of the documents', () => {
    const rows = packSequences([document(1, 2, 3), document(4, 5), document(6, 7, 8, 9)], 5);
    const batch = collate([rows.at(0) as Sequence, rows.at(1) as Sequence], 0, 4);
    expect(batch.seqIdx).toEqual(Int32Array.of(0, 0, 0, 1, 1, 2, 2, 2, 0, 0, 0, 0, 1, 1, 1, 1));
    expect(batch.labels).toEqual(
      Int32Array.of(-100, 2, 3, -100, 5, -100, -100, -100, -100, 7, 8, 9, -100, -100, -100, -100),
    );
    expect(batch.tokens).toBe(2 + 1 + 3);
    expect(collate([document(1, 2)], 0)).not.toHaveProperty('seqIdx');
  });
});
