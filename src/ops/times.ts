// SPDX-License-Identifier: Apache-2.0
/** A product with a number. */
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';

/** x times a number that the device makes itself: a recorded step can upload none. */
export function times<T extends Tensor>(x: T, factor: number): T {
  return tf.mul(x, tf.fill([1], factor));
}
