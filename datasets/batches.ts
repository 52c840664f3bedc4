// SPDX-License-Identifier: Apache-2.0
/** Batches: the order of an epoch, its division, and right-padded tensors' data. */
import { UserError } from '../src/errors.ts';
import { createRandom, randomStreams, shuffle } from '../src/random.ts';
import { IGNORE_INDEX } from './fields.ts';
import type { Sequence } from './sequences.ts';
import { countLossTokens } from './tokenize.ts';

/** One batch, row after row. */
export interface Batch {
  /** `[batch, seqlen]`. */
  inputIds: Int32Array;
  /** `[batch, seqlen]`, not shifted; -100 carries no loss, as in all padding. */
  labels: Int32Array;
  /** `[batch, seqlen]`: 1 for an example's own positions, 0 for padding. */
  attentionMask: Int32Array;
  /** `[batch, seqlen]`: document of each position, padding a document of its own; when rows are packed. */
  seqIdx?: Int32Array;
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
export function collate(examples: readonly Sequence[], padTokenId: number, multiple = 1): Batch {
  if (examples.length === 0) throw new UserError('collate: found no examples; expected at least one');
  const batch = examples.length;
  const longest = Math.max(...examples.map((example) => example.inputIds.length));
  const seqlen = Math.ceil(longest / multiple) * multiple;
  const inputIds = new Int32Array(batch * seqlen).fill(padTokenId);
  const labels = new Int32Array(batch * seqlen).fill(IGNORE_INDEX);
  const attentionMask = new Int32Array(batch * seqlen);
  const seqIdx = examples.some((example) => example.seqIdx) ? new Int32Array(batch * seqlen) : undefined;
  let tokens = 0;
  examples.forEach((example, row) => {
    inputIds.set(example.inputIds, row * seqlen);
    labels.set(example.labels, row * seqlen);
    attentionMask.fill(1, row * seqlen, row * seqlen + example.inputIds.length);
    if (seqIdx && example.seqIdx) {
      seqIdx.set(example.seqIdx, row * seqlen);
      const padding = 1 + (example.seqIdx.at(-1) ?? -1);
      seqIdx.fill(padding, row * seqlen + example.seqIdx.length, (row + 1) * seqlen);
    }
    tokens += countLossTokens(example.labels);
  });
  return { inputIds, labels, attentionMask, ...(seqIdx && { seqIdx }), batch, seqlen, tokens };
}

/**
 * The order in which an epoch visits `n` examples: 0 … n - 1, or `shuffled` a permutation of it by Fisher and Yates
 * that depends on (n, seed, epoch) alone.
 *
 * @param epoch counted from 0.
 */
export function epochOrder(n: number, seed: number, epoch: number, shuffled: boolean): Uint32Array {
  const order = Uint32Array.from({ length: n }, (_, index) => index);
  if (shuffled) shuffle(order, createRandom({ seed, stream: randomStreams.shuffle, substream: epoch }));
  return order;
}

/** Cuts an order into batches of `batchSize`; the last may be smaller, nothing is dropped. */
export function batchesOf(order: Uint32Array, batchSize: number): Uint32Array[] {
  return Array.from({ length: Math.ceil(order.length / batchSize) }, (_, index) =>
    order.subarray(index * batchSize, (index + 1) * batchSize),
  );
}

/** Batches from which length-grouped ones are made: transformers' group_by_length looks at as many at once. */
const GROUPED_BATCHES = 50;

/**
 * Cuts an order into batches of sequences of about one length, so that little of them is padding. Fifty batches' worth of the
 * order at a time is sorted by length; the batches then come in an order that depends on (order, seed, epoch) alone, with the
 * one that holds the longest sequence first, so that a run that lacks memory ends at its start. Nothing is dropped.
 *
 * @param tokenCounts tokens of each sequence
 */
export function lengthGroupedBatches(
  order: Uint32Array,
  batchSize: number,
  tokenCounts: Int32Array,
  seed: number,
  epoch: number,
): Uint32Array[] {
  const tokensOf = (index: number) => tokenCounts[index] ?? 0;
  const batches = batchesOf(order, batchSize * GROUPED_BATCHES).flatMap((group) =>
    batchesOf(
      group.toSorted((a, b) => tokensOf(b) - tokensOf(a)),
      batchSize,
    ),
  );
  const partial = batches.findIndex((batch) => batch.length < batchSize);
  const last = partial === -1 ? [] : batches.splice(partial, 1);
  shuffle(batches, createRandom({ seed, stream: randomStreams.batchOrder, substream: epoch }));
  const longest = batches.reduce(
    (best, batch, index) => (tokensOf(batch[0] ?? 0) > tokensOf(batches[best]?.[0] ?? 0) ? index : best),
    0,
  );
  return [...batches.splice(longest, 1), ...batches, ...last];
}
