// SPDX-License-Identifier: Apache-2.0
/** Dropout masks as a pure function of (seed, offset, element), the same on every backend. */
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { philox4x32 } from '../random.ts';

/**
 * 0 with probability p, else 1 / (1 - p): word(e) >= ceil(p 2^32) keeps element e, word(e) = lane e % 4 of Philox4x32-10 with key
 * `seed` and counter (e / 4, offset) (native/include/lora_linear.h).
 */
export function dropoutMask(shape: number[], p: number, seed: number, offset: number): Tensor {
  const size = tf.util.sizeFromShape(shape);
  const values = new Float32Array(size);
  const threshold = Math.ceil(Math.fround(p) * 2 ** 32);
  for (let block = 0; block * 4 < size; block++) {
    const words = philox4x32([low(block), high(block), low(offset), high(offset)], [low(seed), high(seed)]);
    for (let lane = 0; lane < 4 && block * 4 + lane < size; lane++) {
      values[block * 4 + lane] = (words[lane] as number) >= threshold ? 1 / (1 - p) : 0;
    }
  }
  return tf.tensor(values, shape);
}

function low(value: number): number {
  return value >>> 0;
}

function high(value: number): number {
  return Math.floor(value / 2 ** 32);
}
