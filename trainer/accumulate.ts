// SPDX-License-Identifier: Apache-2.0
/** The gradients of one optimizer step, summed over its batches: what steps that run as they come and recorded ones share. */
import type { Scalar, Tensor, Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { Batch } from '../datasets/index.ts';
import { valueAndGradients } from '../src/autograd/index.ts';
import type { DeviceBatch, LossBatch } from '../src/model/causal_lm.ts';
import type { LossOptions } from '../src/ops/linear_cross_entropy.ts';
import type { Coverage } from './coverage.ts';
import type { TrainableModel } from './model.ts';
import { neftuneNoise } from './neftune.ts';
import type { Optimizer } from './optimizer.ts';

export interface StepContext {
  model: TrainableModel;
  optimizer: Optimizer;
  coverage: Coverage;
  /** Of the dropout masks. */
  seed: number;
  /** Record steps where the backend can. */
  cudaGraphs: boolean;
  /** What the loss has beside the cross-entropy. Default nothing. */
  loss?: LossOptions;
  /** Strength of the noise on the embeddings. Default none. */
  neftuneNoiseAlpha?: number | null;
}

export interface StepInputs {
  /** 1 for the first. */
  step: number;
  /** Number of the first batch among all of the run: the counter of its dropout masks. */
  firstBatch: number;
  batches: readonly Batch[];
  learningRate: number;
}

export interface StepOutcome {
  /** Mean over the tokens of the step, in nats. */
  loss: number;
  /** Before clipping. */
  gradNorm: number;
  /** Where a number stopped being finite, when one did; no parameter has changed then. */
  failure?: string;
}

/** What the model is given of a batch. Padding is at the right, where nothing before it can see it: no mask is needed. */
export function modelBatch({ inputIds, labels, seqIdx, batch, seqlen }: Batch): LossBatch {
  return { inputIds, labels, ...(seqIdx && { seqIdx }), batch, seqlen };
}

/** Tokens that carry loss. */
export function lossTokens(batches: readonly Batch[]): number {
  return batches.reduce((sum, batch) => sum + batch.tokens, 0);
}

/**
 * Sums losses and gradients over batches.
 * @param upstream 1 / tokens: what each batch's summed loss counts in the step's
 * @param dropouts of each batch
 */
export function accumulateGradients(
  { model, loss }: Pick<StepContext, 'model' | 'loss'>,
  parameters: ReadonlyMap<string, Variable>,
  batches: readonly DeviceBatch[],
  upstream: Scalar,
  dropouts: readonly { seed: number; step: number | Scalar }[],
): { lossSum: Scalar; gradients: Map<string, Tensor> } {
  const leaves = [...parameters.values()];
  const names = [...parameters.keys()];
  const gradients = new Map<string, Tensor>();
  let lossSum: Scalar | undefined;
  for (const [i, batch] of batches.entries()) {
    model.setDropout(dropouts[i] ?? null);
    const forward = () => model.lossSumOn(batch, loss).lossSum;
    const { value, gradients: parts } = valueAndGradients(forward, leaves, { upstream: [upstream] });
    lossSum = lossSum ? addTo(lossSum, value) : value;
    for (const [index, part] of parts.entries()) {
      const name = names[index] as string;
      const sum = gradients.get(name);
      if (part) gradients.set(name, sum ? addTo(sum, part) : part);
    }
  }
  if (!lossSum) throw new Error('a step needs at least one batch');
  return { lossSum, gradients };
}

/** The noise on the embeddings of batch `microStep` of the run; undefined when there is none. */
export function noiseFor(
  context: Pick<StepContext, 'model' | 'seed' | 'neftuneNoiseAlpha'>,
  batch: Batch,
  microStep: number,
): Float32Array | undefined {
  const { model, seed, neftuneNoiseAlpha: alpha } = context;
  return alpha ? neftuneNoise(batch, model.config.hiddenSize, alpha, { seed, microStep }) : undefined;
}

/** sum + part, freeing both. */
function addTo<T extends Tensor>(sum: T, part: Tensor): T {
  const total = tf.add<T>(sum, part);
  tf.dispose([sum, part]);
  return total;
}
