// SPDX-License-Identifier: Apache-2.0
/** Losses of token sequences of any length: windows of a batch of them, the state carried from one window to the next. */
import { batchesOf, type Example, IGNORE_INDEX } from '../../datasets/index.ts';
import { firstRows, type MambaCache } from '../../src/model/backbone.ts';
import type { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { nextTurn } from '../loop.ts';

export type ScoredModel = Pick<MambaForCausalLM, 'positionLosses' | 'setDropout'>;

export interface ScoreOptions {
  /** Sequences of one forward pass. */
  batchSize: number;
  /** Positions of one forward pass, from 1. */
  window: number;
  /** Written into padding, where it changes nothing. */
  padTokenId: number;
  signal?: AbortSignal;
  /** Called with the sequences that are done. */
  onProgress?(done: number, total: number): void;
}

/** The part of a sequence that one window predicts. */
export interface Block {
  /** Summed over its tokens, in nats. */
  loss: number;
  /** Tokens that carry loss. */
  tokens: number;
}

/**
 * Scores sequences. A token's loss depends on the tokens before it alone: not on batch, window or the other sequences, but for
 * rounding.
 *
 * @param sequences labels aligned with ids, -100 carries no loss; a sequence's first token never does
 * @returns for each sequence the blocks that carry loss; a sequence with no more than one token has none
 * @throws the signal's reason when it is aborted
 */
export async function scoreSequences(
  model: ScoredModel,
  sequences: readonly Pick<Example, 'inputIds' | 'labels'>[],
  options: ScoreOptions,
): Promise<Block[][]> {
  model.setDropout(null);
  const blocks: Block[][] = sequences.map(() => []);
  const predicted = sequences.map(({ labels }) => lastPredicting(labels) + 1);
  const byLength = Uint32Array.from(sequences.keys()).sort(
    (a, b) => (predicted[b] ?? 0) - (predicted[a] ?? 0) || a - b,
  );
  let done = 0;
  for (const indices of batchesOf(byLength, options.batchSize)) {
    await scoreBatch(
      model,
      Array.from(indices, (index) => ({
        ...(sequences[index] as Example),
        positions: predicted[index] as number,
        blocks: blocks[index] as Block[],
      })),
      options,
    );
    done += indices.length;
    options.onProgress?.(done, sequences.length);
  }
  return blocks;
}

interface Row {
  inputIds: Int32Array;
  labels: Int32Array;
  /** Positions to run: up to the last that predicts a token with loss. */
  positions: number;
  /** Where the result goes. */
  blocks: Block[];
}

/** @param rows the longest first */
async function scoreBatch(model: ScoredModel, rows: readonly Row[], options: ScoreOptions): Promise<void> {
  const { window, padTokenId, signal } = options;
  let cache: MambaCache | undefined;
  try {
    for (let start = 0; ; start += window) {
      const alive = rows.filter((row) => row.positions > start);
      const longest = alive[0];
      if (!longest) return;
      await nextTurn();
      signal?.throwIfAborted();
      const seqlen = Math.min(window, longest.positions - start);
      const inputIds = alive.map(({ inputIds }) =>
        padded(inputIds.subarray(start, start + seqlen), seqlen, padTokenId),
      );
      const targets = alive.map((row) => targetsOf(row, start, seqlen));
      const previous = cache;
      cache = previous && firstRows(previous, alive.length);
      previous?.dispose();
      const result = model.positionLosses(
        { inputIds, useCache: longest.positions > start + window, ...(cache && { cacheParams: cache }) },
        Int32Array.from(targets.flat()),
      );
      cache?.dispose();
      cache = result.cacheParams;
      addBlocks(alive, targets, result.losses);
    }
  } finally {
    cache?.dispose();
  }
}

function addBlocks(rows: readonly Row[], targets: readonly number[][], losses: Float32Array): void {
  let next = 0;
  for (const [i, row] of rows.entries()) {
    const tokens = targets[i]?.filter((target) => target !== IGNORE_INDEX).length ?? 0;
    const loss = losses.subarray(next, next + tokens).reduce((sum, value) => sum + value, 0);
    next += tokens;
    if (tokens > 0) row.blocks.push({ loss, tokens });
  }
}

/** The token that each position of a window predicts; a row ends with its last token. */
function targetsOf({ labels, positions }: Row, start: number, seqlen: number): number[] {
  return Array.from({ length: seqlen }, (_, i) => {
    const position = start + i;
    return position < positions ? (labels[position + 1] as number) : IGNORE_INDEX;
  });
}

/** The last position that predicts a token with loss; -1 for none. */
function lastPredicting(labels: Int32Array): number {
  for (let position = labels.length - 2; position >= 0; position--) {
    if (labels[position + 1] !== IGNORE_INDEX) return position;
  }
  return -1;
}

function padded(ids: Int32Array, length: number, padTokenId: number): number[] {
  return [...ids, ...new Array<number>(length - ids.length).fill(padTokenId)];
}
