// SPDX-License-Identifier: Apache-2.0
/** Which weights may be kept in a packed copy by a backend. */
import type { Tensor } from '@tensorflow/tfjs-core';
import { Variable } from '@tensorflow/tfjs-core';

/** Whether a tensor is a model parameter that does not train. */
export function isFrozen(tensor: Tensor): boolean {
  return tensor instanceof Variable && !tensor.trainable;
}
