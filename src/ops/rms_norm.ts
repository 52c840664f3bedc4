// SPDX-License-Identifier: Apache-2.0
/**
 * RMSNorm (Zhang and Sennrich 2019) with the residual addition before it: answers to MambaRMSNorm of transformers.
 *
 *     s = x + residual        y = s / sqrt(mean(s^2) + eps) * weight
 */
import type { Tensor, Tensor1D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../autograd/engine.ts';
import { checkDtype, checkShape } from './shapes.ts';

export interface RmsNormInputs {
  /** [..., d_model], float32. */
  x: Tensor;
  /** [d_model], float32. Default all ones. */
  weight?: Tensor1D | null;
  /** x's shape, float32. Default none: s is x. */
  residual?: Tensor | null;
}

export type RmsNormResult = {
  /** x's shape. */
  y: Tensor;
  /** s, the residual stream to carry on: x + residual, or x itself when there is no residual. */
  residualOut: Tensor;
};

/**
 * Normalises the rows of the last axis. Differentiable in x, residual and weight.
 * @param eps added to the mean square; default 1e-5
 * @throws when a shape or dtype is not the documented one
 */
export function rmsNorm({ x, weight, residual }: RmsNormInputs, eps = 1e-5): RmsNormResult {
  const op = 'rmsNorm';
  checkShape(op, 'weight', weight, [x.shape[x.shape.length - 1] ?? 1]);
  checkShape(op, 'residual', residual, x.shape);
  for (const [name, tensor] of Object.entries({ x, weight, residual })) checkDtype(op, name, tensor, 'float32');
  if (!hasKernel('RmsNorm')) return tf.tidy(() => compositeNorm({ x, weight, residual }, eps));
  const [y, sum] = runKernel<Tensor[]>('RmsNorm', { x, weight, residual }, { eps }) as [Tensor, Tensor?];
  return { y, residualOut: sum ?? x };
}

function compositeNorm({ x, weight, residual }: RmsNormInputs, eps: number): RmsNormResult {
  const s = residual ? tf.add(x, residual) : x;
  const scale = tf.rsqrt(tf.add(tf.mean(tf.square(s), -1, true), eps));
  const normed = tf.mul(s, scale);
  return { y: weight ? tf.mul(normed, weight) : normed, residualOut: s };
}
