// SPDX-License-Identifier: Apache-2.0
/** Batches: the order of an epoch, its division, and right-padded tensors' data. */
import { UserError } from '../src/errors.ts';
import { createRandom, randomStreams } from '../src/random.ts';
import { IGNORE_INDEX } from './records.ts';
import { countLossTokens, type Example } from './tokenize.ts';

/** One batch, row after row. */
export interface Batch {
  /** `[batch, seqlen]`. */
  inputIds: Int32Array;
  /** `[batch, seqlen]`, not shifted; -100 carries no loss, as in all padding. */
  labels: Int32Array;
  /** `[batch, seqlen]`: 1 for an example's own positions, 0 for padding. */
  attentionMask: Int32Array;
  batch: number;
  /** Length of the longest example, or what it was rounded up to. */
  seqlen: number;
  /** Positions that carry loss: the divisor of the summed loss. */
  tokens: number;
}

/**
 * Puts examples into one batch, padded at the right to the longest of them. What is padding is decided by position, never
 * by id: `padTokenId` may be an id that texts use too, such as the end of text.
 *
 * @param padTokenId written into padding, where nothing reads it but the embedding.
 * @param multiple the length is rounded up to a multiple of this, so that batches come in few shapes; default 1
 * @throws UserError when there is no example.
 */
export function collate(examples: readonly Example[], padTokenId: number, multiple = 1): Batch {
  if (examples.length === 0) throw new UserError('collate: found no examples; expected at least one');
  const batch = examples.length;
  const longest = Math.max(...examples.map((example) => example.inputIds.length));
  const seqlen = Math.ceil(longest / multiple) * multiple;
  const inputIds = new Int32Array(batch * seqlen).fill(padTokenId);
  const labels = new Int32Array(batch * seqlen).fill(IGNORE_INDEX);
  const attentionMask = new Int32Array(batch * seqlen);
  let tokens = 0;
  examples.forEach((example, row) => {
    inputIds.set(example.inputIds, row * seqlen);
    labels.set(example.labels, row * seqlen);
    attentionMask.fill(1, row * seqlen, row * seqlen + example.inputIds.length);
    tokens += countLossTokens(example.labels);
  });
  return { inputIds, labels, attentionMask, batch, seqlen, tokens };
}

/**
 * The order in which an epoch visits `n` examples: 0 … n - 1, or with `shuffle` a permutation of it by Fisher and Yates
 * that depends on (n, seed, epoch) alone.
 *
 * @param epoch counted from 0.
 */
export function epochOrder(n: number, seed: number, epoch: number, shuffle: boolean): Uint32Array {
  const order = Uint32Array.from({ length: n }, (_, index) => index);
  if (!shuffle) return order;
  const random = createRandom({ seed, stream: randomStreams.shuffle, substream: epoch });
  for (let last = n - 1; last > 0; last--) {
    const other = random.below(last + 1);
    const moved = order[last] ?? 0;
    order[last] = order[other] ?? 0;
    order[other] = moved;
  }
  return order;
}

/** Cuts an order into batches of `batchSize`; the last may be smaller, nothing is dropped. */
export function batchesOf(order: Uint32Array, batchSize: number): Uint32Array[] {
  return Array.from({ length: Math.ceil(order.length / batchSize) }, (_, index) =>
    order.subarray(index * batchSize, (index + 1) * batchSize),
  );
}
