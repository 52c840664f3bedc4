// SPDX-License-Identifier: Apache-2.0
/** Splits the last axis into consecutive parts: x and z of in_proj's output, delta, B and C of x_proj's. */
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../autograd/engine.ts';

/**
 * @param x [..., channels]
 * @param sizes widths of the parts, adding up to channels
 * @returns the parts; on the native backends views on x's data, without a copy
 * @throws when the sizes do not add up
 */
export function splitChannels(x: Tensor, sizes: number[]): Tensor[] {
  const channels = x.shape[x.shape.length - 1] ?? 1;
  const total = sizes.reduce((sum, size) => sum + size, 0);
  if (total !== channels)
    throw new Error(`splitChannels: sizes [${sizes}] add up to ${total}, x has ${channels} channels`);
  return hasKernel('SplitChannels') ? runKernel<Tensor[]>('SplitChannels', { x }, { sizes }) : tf.split(x, sizes, -1);
}
