// SPDX-License-Identifier: Apache-2.0
/** Loss and perplexity over a dataset. */
import { batchesOf, collate, epochOrder, type Sequence, type SequenceList } from '../datasets/index.ts';
import { nextTurn } from './loop.ts';
import type { TrainableModel } from './model.ts';

export interface Evaluation {
  /** Mean cross-entropy over all tokens that carry loss, in nats. */
  loss: number;
  /** exp(loss) */
  perplexity: number;
  /** Tokens that carry loss. */
  tokens: number;
  examples: number;
  /** Wall time. */
  seconds: number;
}

export interface EvaluateOptions {
  /** Examples of one forward pass. Default 8. */
  batchSize?: number;
  /** Evaluate the first ones only. Default all. */
  maxExamples?: number;
  /** Written into padding, where it changes nothing. Default 0. */
  padTokenId?: number;
  /** Asked before each batch; true gives the evaluation up. */
  isInterrupted?(): boolean;
  /** Called after each batch with the examples seen so far. */
  onProgress?(done: number, total: number): void;
}

/**
 * Evaluates a model without dropout, in the order of the examples. Every token counts the same, however the batches fall.
 *
 * @returns undefined when it was given up
 */
export async function evaluate(
  model: Pick<TrainableModel, 'lossSum' | 'setDropout'>,
  examples: SequenceList,
  options: EvaluateOptions = {},
): Promise<Evaluation | undefined> {
  const { batchSize = 8, padTokenId = 0, maxExamples = examples.length } = options;
  const total = Math.min(examples.length, maxExamples);
  const start = performance.now();
  let lossSum = 0;
  let tokens = 0;
  let done = 0;
  model.setDropout(null);
  for (const indices of batchesOf(epochOrder(total, 0, 0, false), batchSize)) {
    await nextTurn();
    if (options.isInterrupted?.()) return undefined;
    const chosen = Array.from(indices, (index) => examples.at(index) as Sequence);
    const { inputIds, labels, batch, seqlen, tokens: batchTokens } = collate(chosen, padTokenId);
    const result = model.lossSum({ inputIds, labels, batch, seqlen });
    lossSum += result.lossSum.dataSync<'float32'>()[0] as number;
    result.lossSum.dispose();
    result.count.dispose();
    tokens += batchTokens;
    done += batch;
    options.onProgress?.(done, total);
  }
  const loss = lossSum / tokens;
  return { loss, perplexity: Math.exp(loss), tokens, examples: done, seconds: (performance.now() - start) / 1000 };
}
