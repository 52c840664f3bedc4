// SPDX-License-Identifier: Apache-2.0
/** How far an adapter has moved each module's weight. */
import type { Scalar, Tensor2D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { globalNorm } from '../src/ops/adamw_step.ts';
import type { PeftModel } from './peft_model.ts';

export interface AdapterNorm {
  /** Frobenius norm of the update, scaling * lora_B @ lora_A. */
  norm: number;
  /** The same as a share of the Frobenius norm of the base weight. */
  relative: number;
}

/**
 * The norm of each adapted module's update, by module name in the model's order. The products are never formed:
 * |B A|² = trace((Bᵀ B) (A Aᵀ)).
 */
export function adapterNorms({ model }: Pick<PeftModel, 'model'>): Map<string, AdapterNorm> {
  const adapted = [...model.modules.values()].flatMap(({ name, weight, lora }) => (lora ? { name, weight, lora } : []));
  const values = tf.tidy(() => {
    const squares = adapted.map(({ lora: { A, B } }) =>
      squaredNorm(A as unknown as Tensor2D, B as unknown as Tensor2D),
    );
    const weights = adapted.map(({ weight }) => globalNorm([weight]));
    return tf.stack([...squares, ...weights]).dataSync<'float32'>();
  });
  return new Map(
    adapted.map(({ name, lora }, i) => {
      const norm = lora.scaling * Math.sqrt(Math.max(0, values[i] as number));
      return [name, { norm, relative: norm / (values[adapted.length + i] as number) }];
    }),
  );
}

function squaredNorm(A: Tensor2D, B: Tensor2D): Scalar {
  return tf.sum(tf.mul(tf.matMul(A, A, false, true), tf.matMul(B, B, true, false)));
}
