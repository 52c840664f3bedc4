// SPDX-License-Identifier: Apache-2.0
/**
 * The norm that DoRA divides by (Liu et al. 2024, section 4.3); answers to get_weight_norm of peft's dora layers.
 *
 *     norm[o] = sqrt(sum over i of (W[o, i] + scaling (loraB loraA)[o, i])^2)
 *             = sqrt(squares[o] + sum over k of loraB[o, k] (2 scaling (W loraA^T)[o, k] + scaling^2 (loraB loraA loraA^T)[o, k]))
 *
 * The second form reads W once and makes nothing of its size; `squares` are W's own and stay while W does.
 */
import type { Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { noGradient } from '../autograd/index.ts';
import { times } from './times.ts';

export interface DoraNormInputs {
  /** [out, in], float32; for an embedding [in, out]. */
  W: Tensor2D;
  /** [r, in] */
  loraA: Tensor2D;
  /** [out, r] */
  loraB: Tensor2D;
  /** Of {@link sumOfSquares}. */
  squares: Tensor1D;
}

/** The squared norm of each output's weights [out]. @param transposed whether W is [in, out] */
export function sumOfSquares(W: Tensor2D, transposed: boolean): Tensor1D {
  return tf.tidy(() => noGradient(() => tf.sum(tf.square(W), transposed ? 0 : 1)));
}

/**
 * Computes the norm [out]. No gradient flows through it: the paper holds it constant.
 * @param transposed whether W is [in, out]
 */
export function doraNorm({ W, loraA, loraB, squares }: DoraNormInputs, scaling: number, transposed: boolean): Tensor1D {
  return tf.tidy(() =>
    noGradient(() => {
      const cross = tf.matMul(W, loraA, transposed, true);
      const quadratic = tf.matMul(loraB, tf.matMul(loraA, loraA, false, true));
      const sum = tf.add(times(cross, 2 * scaling), times(quadratic, scaling * scaling));
      return tf.sqrt(tf.add(squares, tf.sum(tf.mul(loraB, sum), 1)));
    }),
  );
}
