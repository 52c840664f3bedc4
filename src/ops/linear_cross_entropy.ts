// SPDX-License-Identifier: Apache-2.0
/**
 * The language-model head and its loss in one op, without the [n, vocab_size] logits on backends with the fused kernel.
 *
 *     logits = hidden W^T      lossSum = sum over rows with labels[i] >= 0 of
 *         logsumexp(logits[i]) - (1 - labelSmoothing) logits[i, labels[i]] - labelSmoothing mean(logits[i]) + zLoss logsumexp(logits[i])^2
 *
 * Label smoothing is LabelSmoother's of transformers, the z-loss that of PaLM (Chowdhery et al. 2022, section 5).
 */
import type { Scalar, Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../autograd/engine.ts';
import { needsGradient, noGradient } from '../autograd/tape.ts';
import { isFrozen } from './frozen.ts';
import { checkDtype, checkShape } from './shapes.ts';

export interface LinearCrossEntropyInputs {
  /** [n, d_model], float32. */
  hidden: Tensor2D;
  /** [vocab_size, d_model], float32. */
  W: Tensor2D;
  /** [n], int32; negative (-100) is ignored. */
  labels: Tensor1D;
}

export interface LossOptions {
  /** Share of the target that is spread evenly over the vocabulary, in [0, 1). Default 0. */
  labelSmoothing?: number;
  /** Factor of the squared log of the normalizer. Default 0. */
  zLoss?: number;
}

export type LinearCrossEntropyResult = {
  /** Sum of the losses over the rows with a label, in nats. */
  lossSum: Scalar;
  /** Number of rows with a label. */
  count: Scalar;
};

/**
 * Computes the summed cross-entropy. lossSum is differentiable in hidden and W.
 * @throws when a shape or dtype is not the documented one, or a label is not below the vocabulary size (not checked on `cuda`)
 */
export function linearCrossEntropy(
  inputs: LinearCrossEntropyInputs,
  options: LossOptions = {},
): LinearCrossEntropyResult {
  const { hidden, W, labels } = inputs;
  const { labelSmoothing = 0, zLoss = 0 } = options;
  const op = 'linearCrossEntropy';
  if (hidden.rank !== 2) throw new Error(`${op}: hidden must have shape [n, d_model], got [${hidden.shape}]`);
  if (W.rank !== 2) throw new Error(`${op}: W must have shape [vocab_size, d_model], got [${W.shape}]`);
  checkShape(op, 'hidden', hidden, [hidden.shape[0], W.shape[1]]);
  checkShape(op, 'labels', labels, [hidden.shape[0]]);
  for (const [name, tensor] of Object.entries({ hidden, W })) checkDtype(op, name, tensor, 'float32');
  checkDtype(op, 'labels', labels, 'int32');
  if (!hasKernel('LinearCrossEntropy')) return tf.tidy(() => compositeCrossEntropy(inputs, labelSmoothing, zLoss));
  const needs = [needsGradient(hidden) && 'hidden', needsGradient(W) && 'W'].filter(Boolean);
  const [lossSum, count, ...gradients] = runKernel<Tensor[]>(
    'LinearCrossEntropy',
    { ...inputs },
    { needs, frozen: isFrozen(W), labelSmoothing, zLoss },
  );
  for (const gradient of gradients) gradient.dispose();
  return { lossSum: lossSum as Scalar, count: count as Scalar };
}

function compositeCrossEntropy(
  { hidden, W, labels }: LinearCrossEntropyInputs,
  labelSmoothing: number,
  zLoss: number,
): LinearCrossEntropyResult {
  checkLabels(labels, W.shape[0]);
  const valid = tf.cast(tf.greaterEqual(labels, 0), 'float32');
  const logits = tf.matMul(hidden, W, false, true);
  const highest = noGradient(() => tf.max(logits, 1, true));
  const shifted = tf.sub(logits, highest);
  const logSumExp = tf.add(tf.log(tf.sum(tf.exp(shifted), 1)), tf.reshape(highest, [-1]));
  let target: Tensor = tf.sum(tf.mul(hidden, tf.gather(W, tf.maximum(labels, tf.scalar(0, 'int32')))), 1);
  if (labelSmoothing > 0) {
    target = tf.add(tf.mul(target, 1 - labelSmoothing), tf.mul(tf.mean(logits, 1), labelSmoothing));
  }
  const loss = tf.sub(logSumExp, target);
  const penalized = zLoss > 0 ? tf.add(loss, tf.mul(tf.square(logSumExp), zLoss)) : loss;
  return {
    lossSum: tf.sum(tf.mul(penalized, valid)) as Scalar,
    count: tf.sum(valid) as Scalar,
  };
}

function checkLabels(labels: Tensor, vocabSize: number): void {
  const values = labels.dataSync();
  const bad = values.findIndex((value) => value >= vocabSize);
  if (bad >= 0)
    throw new Error(`label ${values[bad]} at position ${bad} is not below the vocabulary size ${vocabSize}`);
}
