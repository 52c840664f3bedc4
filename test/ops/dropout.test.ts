// SPDX-License-Identifier: Apache-2.0
/** The dropout mask of composite ops, bit for bit, on every backend. */
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { valueAndGradients } from '../../src/autograd/index.ts';
import { dropElements, dropoutMask } from '../../src/ops/dropout.ts';
import { forEachBackend } from '../helpers/backends.ts';
import { expectNoLeak } from '../helpers/memory.ts';
import { dropoutMask as reference } from '../reference/dropout.ts';

forEachBackend(() => {
  it.each([
    [[1], 0.5, 0, 0],
    [[3, 5], 0.1, 7, 1],
    [[2, 3, 33], 0.75, 2 ** 33 + 1, 2 ** 40 + 9],
    [[401], 0.999, 2 ** 53 - 1, 2 ** 53 - 1],
  ])('shape %j, p %d, seed %d, offset %d', (shape, p, seed, offset) => {
    const mask = tf.tidy(() => dropoutMask(shape, p, seed, offset).dataSync()) as unknown as Float32Array;
    expect(mask).toEqual(Float32Array.from(reference(tf.util.sizeFromShape(shape), p, seed, offset)));
  });

  it.each([
    [[1, 1], 0.5, 0, 0, null],
    [[5, 3], 0.1, 7, 1, 0],
    [[2, 3, 33], 0.75, 2 ** 33 + 1, 2 ** 40 + 9, null],
    [[3, 64], 0.25, 11, 3, 5],
  ])(
    'drops elements and their gradients of shape %j, p %d, seed %d, offset %d, step %j',
    (shape, p, seed, offset, step) => {
      const size = tf.util.sizeFromShape(shape);
      const mask = reference(size, p, seed, offset + (step ?? 0) * 2 ** 20);
      const x = tf.variable(
        tf.tensor(
          Float32Array.from({ length: size }, (_, i) => i + 1),
          shape,
        ),
      );
      const dropoutStep = step === null ? null : tf.scalar(step, 'int32');
      const upstream = tf.onesLike(x);
      const [value, gradient] = expectNoLeak(() => {
        const result = valueAndGradients(() => dropElements(x, { dropout: p, seed, offset, dropoutStep }), [x], {
          upstream: [upstream],
        });
        const read = [result.value, result.gradients[0] as tf.Tensor].map((tensor) =>
          Float32Array.from(tensor.dataSync()),
        );
        tf.dispose([result.value, result.gradients[0] as tf.Tensor]);
        return read as [Float32Array, Float32Array];
      });
      expect(gradient).toEqual(Float32Array.from(mask));
      expect(value).toEqual(Float32Array.from(mask, (factor, i) => Math.fround(factor) * (i + 1)));
      tf.dispose([x, upstream, dropoutStep ?? []]);
    },
  );

  it('differs between offsets and between seeds', () => {
    const masks = [
      [1, 0],
      [1, 1],
      [2, 0],
    ].map(([seed, offset]) =>
      tf.tidy(() => dropoutMask([64], 0.5, seed as number, offset as number).dataSync()).join(),
    );
    expect(new Set(masks).size).toBe(3);
  });
});
