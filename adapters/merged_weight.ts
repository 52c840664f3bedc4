// SPDX-License-Identifier: Apache-2.0
/** The weight that a module with an adapter computes with: the one place that knows what merging an adapter means. */
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { Module } from '../src/model/modules.ts';

/**
 * W + scaling B A; for an embedding W + scaling (B A)^T. Answers to get_delta_weight and merge of peft's lora layers.
 * @returns a fresh tensor of the weight's shape; the weight's values when the module has no adapter
 */
export function mergedWeight(module: Module): Tensor {
  const { lora, weight } = module;
  if (!lora) return tf.clone(weight);
  return tf.tidy(() => {
    const product = module.kind === 'embedding' ? tf.matMul(lora.A, lora.B, true, true) : tf.matMul(lora.B, lora.A);
    return tf.add(weight, tf.mul(lora.scaling, product));
  });
}
