// SPDX-License-Identifier: Apache-2.0
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel } from '../autograd/engine.ts';

/**
 * Checks that an op can write its last state over the one it was given.
 * @throws naming what is missing: the state, or a backend with the fused kernel
 */
export function checkUpdate(op: string, kernel: string, state: Tensor | null | undefined): void {
  if (!state) throw new Error(`${op}: updateState needs the state that it is to write over`);
  if (!hasKernel(kernel)) {
    throw new Error(`${op}: updateState needs the fused kernel, which the ${tf.getBackend()} backend has not`);
  }
}
