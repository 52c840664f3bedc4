// SPDX-License-Identifier: Apache-2.0
/**
 * Single rows in the place of others:
 *
 *     out[indices[i]] = rows[i]      out[j] = W[j] elsewhere
 */
import type { Tensor2D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { checkShape } from './shapes.ts';

/**
 * Copies W with the rows in it. Differentiable in W and rows; nothing is uploaded or read back, so that a recorded step can take it.
 *
 * @param W [n, width], float32
 * @param rows [indices.length, width], float32
 * @param indices at least one, each in [0, n), none twice
 * @returns [n, width]
 * @throws when the shapes do not fit, or an index lies outside or comes twice
 */
export function replaceRows(W: Tensor2D, rows: Tensor2D, indices: readonly number[]): Tensor2D {
  const [n, width] = W.shape;
  checkShape('replaceRows', 'rows', rows, [indices.length, width]);
  const order = indices.map((index, row) => ({ index, row })).sort((a, b) => a.index - b.index);
  for (const [i, { index }] of order.entries()) {
    if (!Number.isInteger(index) || index < 0 || index >= n || index === order[i - 1]?.index)
      throw new Error(`replaceRows: index ${index} lies outside [0, ${n}) or comes twice`);
  }
  return tf.tidy(() => {
    const single = tf.split(rows, indices.length);
    const parts: Tensor2D[] = [];
    let next = 0;
    for (const { index, row } of order) {
      if (index > next) parts.push(tf.slice(W, [next, 0], [index - next, width]));
      parts.push(single[row] as Tensor2D);
      next = index + 1;
    }
    if (next < n) parts.push(tf.slice(W, [next, 0], [n - next, width]));
    return tf.concat(parts, 0);
  });
}
