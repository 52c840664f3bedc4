// SPDX-License-Identifier: Apache-2.0
/** The weight that a module with an adapter computes with: the one place that knows what merging an adapter means. */
import type { Tensor, Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { RowRange } from '../src/checkpoint/tensor_source.ts';
import type { EmbeddingModule, LoraWeights, Module } from '../src/model/modules.ts';

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

/**
 * {@link mergedWeight} of some rows of an embedding.
 * @param values the rows' base values
 */
export function mergedRows(
  module: EmbeddingModule,
  lora: LoraWeights,
  values: Float32Array,
  rows: RowRange,
): Float32Array {
  const merged = tf.tidy(() => {
    const weight = tf.tensor(values, [rows.count, ...module.weight.shape.slice(1)]);
    const A = tf.slice(lora.A, [0, rows.start], [-1, rows.count]);
    return mergedWeight({ ...module, weight: weight as Variable, lora: { ...lora, A: A as Variable } });
  });
  const result = merged.dataSync<'float32'>();
  merged.dispose();
  return result;
}
