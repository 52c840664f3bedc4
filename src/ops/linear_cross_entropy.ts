// SPDX-License-Identifier: Apache-2.0
/**
 * The language-model head and its loss in one op, without the [n, vocab_size] logits on backends with the fused kernel.
 *
 *     lossSum = sum over rows with labels[i] >= 0 of (logsumexp(hidden_i W^T) - (hidden_i W^T)[labels[i]])
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
export function linearCrossEntropy(inputs: LinearCrossEntropyInputs): LinearCrossEntropyResult {
  const { hidden, W, labels } = inputs;
  const op = 'linearCrossEntropy';
  if (hidden.rank !== 2) throw new Error(`${op}: hidden must have shape [n, d_model], got [${hidden.shape}]`);
  if (W.rank !== 2) throw new Error(`${op}: W must have shape [vocab_size, d_model], got [${W.shape}]`);
  checkShape(op, 'hidden', hidden, [hidden.shape[0], W.shape[1]]);
  checkShape(op, 'labels', labels, [hidden.shape[0]]);
  for (const [name, tensor] of Object.entries({ hidden, W })) checkDtype(op, name, tensor, 'float32');
  checkDtype(op, 'labels', labels, 'int32');
  if (!hasKernel('LinearCrossEntropy')) return tf.tidy(() => compositeCrossEntropy(inputs));
  const needs = [needsGradient(hidden) && 'hidden', needsGradient(W) && 'W'].filter(Boolean);
  const [lossSum, count, ...gradients] = runKernel<Tensor[]>(
    'LinearCrossEntropy',
    { ...inputs },
    { needs, frozen: isFrozen(W) },
  );
  for (const gradient of gradients) gradient.dispose();
  return { lossSum: lossSum as Scalar, count: count as Scalar };
}

function compositeCrossEntropy({ hidden, W, labels }: LinearCrossEntropyInputs): LinearCrossEntropyResult {
  checkLabels(labels, W.shape[0]);
  const valid = tf.cast(tf.greaterEqual(labels, 0), 'float32');
  const logits = tf.matMul(hidden, W, false, true);
  const highest = noGradient(() => tf.max(logits, 1, true));
  const shifted = tf.sub(logits, highest);
  const logSumExp = tf.add(tf.log(tf.sum(tf.exp(shifted), 1)), tf.reshape(highest, [-1]));
  const target = tf.sum(tf.mul(hidden, tf.gather(W, tf.maximum(labels, tf.scalar(0, 'int32')))), 1);
  return {
    lossSum: tf.sum(tf.mul(tf.sub(logSumExp, target), valid)) as Scalar,
    count: tf.sum(valid) as Scalar,
  };
}

function checkLabels(labels: Tensor, vocabSize: number): void {
  const values = labels.dataSync();
  const bad = values.findIndex((value) => value >= vocabSize);
  if (bad >= 0)
    throw new Error(`label ${values[bad]} at position ${bad} is not below the vocabulary size ${vocabSize}`);
}
