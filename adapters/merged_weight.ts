// SPDX-License-Identifier: Apache-2.0
/** The weight that a module with an adapter computes with: the one place that knows what merging an adapter means. */
import type { Tensor, Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { RowRange } from '../src/checkpoint/tensor_source.ts';
import { UserError } from '../src/errors.ts';
import { type EmbeddingModule, type LoraWeights, type Module, mergedNorm } from '../src/model/modules.ts';

/** The part of a module that its merged weight depends on. */
export type AdaptedWeight = Pick<Module, 'kind' | 'lora'> & { readonly weight: Tensor };

/**
 * scaling B A in the weight's shape, for an embedding its transpose; answers to get_delta_weight of peft's lora layers.
 * @throws when the module has no adapter
 */
export function deltaWeight({ kind, lora, weight }: AdaptedWeight): Tensor {
  if (!lora) throw new Error('the module has no adapter');
  const { A, B, scaling } = lora;
  return tf.tidy(() => {
    const product = kind === 'embedding' ? tf.matMul(A, B, true, true) : tf.matMul(B, A);
    return tf.reshape(tf.mul(scaling, product), weight.shape);
  });
}

/**
 * W + {@link deltaWeight}; with DoRA each output's vector (a row; of an embedding a column) brought to its magnitude. Answers to merge
 * of peft's lora layers.
 * @returns a fresh tensor of the weight's shape; the weight's values when the module has no adapter
 */
export function mergedWeight(module: AdaptedWeight): Tensor {
  const { kind, lora, weight } = module;
  if (!lora) return tf.clone(weight);
  return tf.tidy(() => {
    const sum = tf.add(weight, deltaWeight(module));
    if (!lora.magnitude) return sum;
    const factor = tf.div(lora.magnitude.value, lora.magnitude.norm ?? mergedNorm(module));
    return tf.mul(sum, kind === 'embedding' ? factor : tf.reshape(factor, [-1, ...weight.shape.slice(1).fill(1)]));
  });
}

/**
 * {@link mergedWeight} of some rows of an embedding.
 * @param lora with DoRA, the norms of the whole weight kept in it
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

/**
 * The bias that a module computes with: its own and its adapter's (lora_bias), scaled. Answers to merge of peft's lora layers.
 * @returns a fresh tensor; null when the module has none
 * @throws UserError when only the adapter has one
 */
export function mergedBias(module: Module): Tensor | null {
  if (module.kind === 'embedding') return null;
  checkBiasCanMerge(module, (module.lora?.bias ?? null) !== null);
  const { bias, lora } = module;
  const added = lora?.bias;
  if (!added) return bias && tf.clone(bias);
  return tf.tidy(() => tf.add(bias as Tensor, tf.mul(lora.scaling, added)));
}

/**
 * @param addsBias whether the module's adapter has a bias
 * @throws UserError when it has, and the base model has no place for one
 */
export function checkBiasCanMerge(module: Module, addsBias: boolean): void {
  if (!addsBias || module.kind === 'embedding' || module.bias) return;
  throw new UserError(
    `the adapter gives ${module.name} a bias (lora_bias), and the base model has no place for one: it cannot be merged; use it as an adapter.`,
  );
}
