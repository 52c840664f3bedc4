// SPDX-License-Identifier: Apache-2.0
/** Dropout masks as a pure function of (seed, offset, element), the same on every backend. */
import type { Scalar, Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../autograd/engine.ts';
import { noGradient } from '../autograd/tape.ts';
import { philox4x32 } from '../random.ts';

/** Offsets between the masks of one training micro-step and of the next (native/include/lora_linear.h). */
export const MASKS_PER_STEP = 2 ** 20;

/** Which mask: as the options of loraLinear. */
export interface Dropout {
  /** Probability that an element is zeroed, in [0, 1). */
  dropout: number;
  seed: number;
  offset: number;
  /** int32 scalar on the device: the mask's counter is offset + dropoutStep * 2^20. Null: offset alone. */
  dropoutStep: Scalar | null;
}

/**
 * x with the same elements zeroed, and the others divided by 1 - p, as loraLinear drops them from the input of its adapter.
 * Differentiable in x.
 * @param x [..., in]
 */
export function dropElements(x: Tensor, dropout: Dropout): Tensor {
  const width = x.shape.at(-1) as number;
  const rows = x.size / width;
  return tf.tidy(() =>
    tf.mul(
      x,
      tf.reshape(
        noGradient(() => maskOf(rows, width, dropout)),
        x.shape,
      ),
    ),
  );
}

/**
 * On a device, which draws the masks itself, this is the gradient of an adapter whose other factors are 1, beside a weight of 0:
 * dx = dy W + mask (dy lora_B lora_A).
 */
function maskOf(rows: number, width: number, { dropout, seed, offset, dropoutStep }: Dropout): Tensor {
  if (!hasKernel('LoraLinearGrad')) {
    const step = dropoutStep ? (dropoutStep.dataSync()[0] as number) : 0;
    return dropoutMask([rows, width], dropout, seed, offset + step * MASKS_PER_STEP);
  }
  const inputs = {
    W: tf.fill([1, width], 0),
    loraA: tf.fill([1, width], 1),
    loraB: tf.fill([1, 1], 1),
    xa: tf.fill([rows, 1], 0),
    dy: tf.fill([rows, 1], 1),
    dropoutStep,
  };
  const attrs = { scaling: 1, dropout, seed, offset, frozen: false, needs: ['x'] };
  return runKernel<Tensor[]>('LoraLinearGrad', inputs, attrs)[0] as Tensor;
}

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
