// SPDX-License-Identifier: Apache-2.0
/** Loss and perplexity over a dataset. */
import { batchesOf, collate, type Example, epochOrder } from '../datasets/index.ts';
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
  examples: readonly Example[],
  options: EvaluateOptions = {},
): Promise<Evaluation | undefined> {
  const { batchSize = 8, padTokenId = 0 } = options;
  const start = performance.now();
  let lossSum = 0;
  let tokens = 0;
  let done = 0;
  model.setDropout(null);
  for (const indices of batchesOf(epochOrder(examples.length, 0, 0, false), batchSize)) {
    await nextTurn();
    if (options.isInterrupted?.()) return undefined;
    const chosen = Array.from(indices, (index) => examples[index] as Example);
    const { inputIds, labels, batch, seqlen, tokens: batchTokens } = collate(chosen, padTokenId);
    const result = model.lossSum({ inputIds, labels, batch, seqlen });
    lossSum += result.lossSum.dataSync<'float32'>()[0] as number;
    result.lossSum.dispose();
    result.count.dispose();
    tokens += batchTokens;
    done += batch;
    options.onProgress?.(done, examples.length);
  }
  const loss = lossSum / tokens;
  return { loss, perplexity: Math.exp(loss), tokens, examples: done, seconds: (performance.now() - start) / 1000 };
}
