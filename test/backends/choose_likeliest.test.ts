// SPDX-License-Identifier: Apache-2.0
/** Greedy choice on the device: tokens, choices and counts in place. */
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { chooseLikeliest } from '../../src/backends/token_choice.ts';
import { forEachDevice } from '../helpers/backends.ts';
import { operandSource, toTensor } from '../helpers/random_tensors.ts';

const SLOTS = 3;

/** What three rounds of the same logits leave, the first of them in the last slot. */
function chooseThrice(logits: tf.Tensor2D) {
  return tf.tidy(() => {
    const [rows] = logits.shape;
    const tokens = tf.fill([rows, 1], 9, 'int32');
    const choices = tf.fill([SLOTS, rows], 9, 'int32') as tf.Tensor2D;
    const counts = tf.fill([rows], 5, 'int32') as tf.Tensor1D;
    chooseLikeliest(logits, { tokens, choices, counts });
    const first = [...choices.dataSync()];
    for (let i = 1; i < SLOTS; i++) chooseLikeliest(logits, { tokens, choices, counts });
    return { tokens: [...tokens.dataSync()], first, choices: [...choices.dataSync()], counts: [...counts.dataSync()] };
  }) as unknown as Record<'tokens' | 'first' | 'choices' | 'counts', number[]>;
}

forEachDevice(() => {
  it.each([1, 7, 1000, 4096, 50_280])('of %d logits', (columns) => {
    const logits = operandSource(columns).normal([3, columns]);
    const expected = Array.from({ length: 3 }, (_, row) => {
      const values = logits.values.subarray(row * columns, (row + 1) * columns);
      return values.indexOf(Math.max(...values));
    });
    const { tokens, first, choices, counts } = tf.tidy(
      () => chooseThrice(toTensor(logits) as tf.Tensor2D) as unknown as tf.TensorContainer,
    ) as unknown as ReturnType<typeof chooseThrice>;
    expect(tokens).toEqual(expected);
    expect(first).toEqual([...new Array(6).fill(9), ...expected]);
    expect(choices).toEqual([...expected, ...expected, ...expected]);
    expect(counts).toEqual([8, 8, 8]);
  });

  it('takes the first of equal logits, and none where a logit is NaN or all are -Infinity', () => {
    const rows = [
      [1, 3, 3, 2, 3],
      [-1, -0, 0, -2, -3],
      [0, -0, 0, 0, 0],
      [1, 2, Number.NaN, 4, 5],
      [Number.NaN, 2, 3, 4, 5],
      new Array(5).fill(Number.NEGATIVE_INFINITY),
      [Number.NEGATIVE_INFINITY, -3e38, Number.NEGATIVE_INFINITY, -3.1e38, Number.NEGATIVE_INFINITY],
      [1, Number.POSITIVE_INFINITY, 3, Number.POSITIVE_INFINITY, 5],
    ];
    const { tokens, first } = tf.tidy(
      () => chooseThrice(tf.tensor2d(rows)) as unknown as tf.TensorContainer,
    ) as unknown as ReturnType<typeof chooseThrice>;
    expect(tokens).toEqual([1, 1, 0, 0, 0, 0, 1, 1]);
    expect(first.slice(16)).toEqual([1, 1, 0, -1, -1, -1, 1, 1]);
  });
});
