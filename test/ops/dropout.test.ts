// SPDX-License-Identifier: Apache-2.0
/** The dropout mask of composite ops, bit for bit, on every backend. */
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { dropoutMask } from '../../src/ops/dropout.ts';
import { forEachBackend } from '../helpers/backends.ts';
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
