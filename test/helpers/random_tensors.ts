// SPDX-License-Identifier: Apache-2.0
/** Seeded operands: values with the shape and dtype they get as a tensor. */
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { createRandom } from '../../src/random.ts';

export interface Operand {
  values: Float32Array | Int32Array;
  shape: number[];
}

export interface OperandSource {
  /** mean + deviation * standard normal. */
  normal(shape: number[], deviation?: number, mean?: number): Operand;
  /** Uniform in [low, high). */
  uniform(shape: number[], low: number, high: number): Operand;
  /** Whole numbers in [0, below). */
  integers(shape: number[], below: number): Operand;
}

export function operandSource(seed: number): OperandSource {
  const random = createRandom({ seed });
  const floats = (shape: number[], draw: () => number): Operand => ({
    values: Float32Array.from({ length: tf.util.sizeFromShape(shape) }, draw),
    shape,
  });
  return {
    normal: (shape, deviation = 1, mean = 0) => floats(shape, () => mean + deviation * random.normal()),
    uniform: (shape, low, high) => floats(shape, () => low + (high - low) * random.uniform()),
    integers: (shape, below) => ({
      values: Int32Array.from({ length: tf.util.sizeFromShape(shape) }, () => random.below(below)),
      shape,
    }),
  };
}

export function toTensor({ values, shape }: Operand): Tensor {
  return tf.tensor(values, shape, values instanceof Int32Array ? 'int32' : 'float32');
}
