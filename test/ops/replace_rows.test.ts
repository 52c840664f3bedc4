// SPDX-License-Identifier: Apache-2.0
/** Rows in the place of others, exactly, and where the gradient goes, on every backend. */
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import { valueAndGradients } from '../../src/autograd/index.ts';
import { replaceRows } from '../../src/ops/replace_rows.ts';
import { forEachBackend } from '../helpers/backends.ts';
import { expectNoLeak } from '../helpers/memory.ts';

const WIDTH = 3;
const numbers = (count: number, first: number) => Float32Array.from({ length: count }, (_, i) => first + i);

forEachBackend(() => {
  describe.each([
    [1, [0]],
    [5, [3]],
    [6, [5, 0]],
    [7, [4, 1, 2]],
    [4, [3, 0, 2, 1]],
  ])('%d rows, %j replaced', (n, indices) => {
    const W = () => tf.tensor2d(numbers(n * WIDTH, 1), [n, WIDTH]);
    const rows = () => tf.tensor2d(numbers(indices.length * WIDTH, 1000), [indices.length, WIDTH]);
    const rowOf = (values: ArrayLike<number>, row: number) => Array.from(values).slice(row * WIDTH, (row + 1) * WIDTH);

    it('each row is the base row or the new one, to the bit', () => {
      const [base, given] = [W(), rows()];
      const found = expectNoLeak(() => {
        const replaced = replaceRows(base, given, indices);
        const read = replaced.dataSync();
        replaced.dispose();
        return read;
      });
      for (let row = 0; row < n; row++) {
        const at = indices.indexOf(row);
        expect(rowOf(found, row)).toEqual(at < 0 ? rowOf(base.dataSync(), row) : rowOf(given.dataSync(), at));
      }
      tf.dispose([base, given]);
    });

    it('each gradient is the upstream rows of its own', () => {
      tf.tidy(() => {
        const [base, given] = [tf.variable(W()), tf.variable(rows())];
        const weights = tf.tensor2d(numbers(n * WIDTH, 0.5), [n, WIDTH]);
        const { gradients } = valueAndGradients(
          () =>
            tf.sum(
              tf.mul(weights, replaceRows(base as unknown as tf.Tensor2D, given as unknown as tf.Tensor2D, indices)),
            ),
          [base, given],
        );
        const [dW, dRows] = gradients.map((gradient) => gradient?.dataSync() ?? []) as [Float32Array, Float32Array];
        for (const [at, row] of indices.entries()) expect(rowOf(dRows, at)).toEqual(rowOf(weights.dataSync(), row));
        for (let row = 0; row < n; row++) {
          const wanted = indices.includes(row) ? [0, 0, 0] : rowOf(weights.dataSync(), row);
          if (dW.length > 0 || wanted.some(Boolean)) expect(rowOf(dW, row)).toEqual(wanted);
        }
        tf.dispose([base, given]);
      });
    });
  });

  it.each([
    [[1, 1], /index 1 lies outside \[0, 2\) or comes twice/],
    [[0, 2], /index 2 lies outside/],
    [[0], /rows/],
  ])('%j are refused', (indices, message) => {
    tf.tidy(() => {
      expect(() => replaceRows(tf.zeros([2, WIDTH]), tf.zeros([2, WIDTH]), indices)).toThrow(message);
    });
  });
});
