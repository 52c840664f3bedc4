// SPDX-License-Identifier: Apache-2.0
/** Padding and masks by position, and the order of epochs. */
import { describe, expect, it } from 'vitest';
import { batchesOf, collate, type Example, epochOrder } from '../../datasets/index.ts';

function example(ids: number[], labels: number[] = ids): Example {
  return { inputIds: Int32Array.from(ids), labels: Int32Array.from(labels), promptLength: 0 };
}

describe('collate', () => {
  it('pads at the right to the longest', () => {
    expect(collate([example([5, 6, 7]), example([8]), example([9, 4], [-100, 4])], 1)).toEqual({
      inputIds: Int32Array.of(5, 6, 7, 8, 1, 1, 9, 4, 1),
      labels: Int32Array.of(5, 6, 7, 8, -100, -100, -100, 4, -100),
      attentionMask: Int32Array.of(1, 1, 1, 1, 0, 0, 1, 1, 0),
      batch: 3,
      seqlen: 3,
      tokens: 3,
    });
  });

  it('keeps the loss on the end of text when padding has the same id, and no loss on padding', () => {
    const eos = 0;
    const batch = collate([example([5, eos]), example([eos, 6, 7, eos])], eos);
    expect(batch.inputIds).toEqual(Int32Array.of(5, 0, 0, 0, 0, 6, 7, 0));
    expect(batch.labels).toEqual(Int32Array.of(5, 0, -100, -100, 0, 6, 7, 0));
    expect(batch.attentionMask).toEqual(Int32Array.of(1, 1, 0, 0, 1, 1, 1, 1));
    expect(batch.tokens).toBe(4);
  });

  it('counts no loss for a first position, which nothing predicts', () => {
    expect(collate([example([5, 6, 7], [5, -100, -100])], 0).tokens).toBe(0);
    expect(collate([example([5, 6, 7], [-100, -100, 7])], 0).tokens).toBe(1);
  });

  it('refuses to make a batch of nothing', () => {
    expect(() => collate([], 0)).toThrow('collate: found no examples; expected at least one');
  });
});

describe('epochOrder', () => {
  it('is the order of the file without shuffle', () => {
    expect(epochOrder(4, 1, 2, false)).toEqual(Uint32Array.of(0, 1, 2, 3));
  });

  it('is a permutation that seed and epoch decide', () => {
    const orders = [epochOrder(100, 1, 0, true), epochOrder(100, 1, 1, true), epochOrder(100, 2, 0, true)];
    for (const order of orders) {
      expect(order.toSorted()).toEqual(epochOrder(100, 1, 0, false));
    }
    expect(new Set(orders.map(String)).size).toBe(3);
    expect(epochOrder(100, 1, 1, true)).toEqual(orders[1]);
  });

  it('stays the same from version to version', () => {
    expect([...epochOrder(10, 42, 0, true)]).toEqual([4, 2, 5, 1, 3, 0, 9, 7, 6, 8]);
  });

  it('favours no permutation', () => {
    const counts = new Map<string, number>();
    for (let epoch = 0; epoch < 6000; epoch++) {
      const order = epochOrder(3, 7, epoch, true).join();
      counts.set(order, (counts.get(order) ?? 0) + 1);
    }
    expect(counts.size).toBe(6);
    for (const count of counts.values()) expect(Math.abs(count - 1000)).toBeLessThan(120);
  });

  it('takes datasets of one record and of none', () => {
    expect(epochOrder(1, 0, 0, true)).toEqual(Uint32Array.of(0));
    expect(epochOrder(0, 0, 0, true)).toEqual(new Uint32Array(0));
  });
});

describe('batchesOf', () => {
  it('keeps the last, smaller batch', () => {
    expect(batchesOf(Uint32Array.of(4, 2, 0, 1, 3), 2)).toEqual([
      Uint32Array.of(4, 2),
      Uint32Array.of(0, 1),
      Uint32Array.of(3),
    ]);
    expect(batchesOf(epochOrder(840, 0, 0, true), 4)).toHaveLength(210);
  });
});
