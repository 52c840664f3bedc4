// SPDX-License-Identifier: Apache-2.0
/**
 * An embedding lookup with an optional low-rank adapter; answers to lora.Embedding of peft.
 *
 *     out[i] = W[ids[i]] + scaling loraB loraA[:, ids[i]]
 */
import type { Tensor, Tensor2D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../autograd/engine.ts';
import { checkDtype, checkIds, checkShape } from './shapes.ts';

export interface LoraEmbeddingInputs {
  /** Token ids of any shape, int32, each in [0, vocab_size). */
  ids: Tensor;
  /** [vocab_size, d_model], float32. */
  W: Tensor2D;
  /** lora_embedding_A [r, vocab_size], float32; given together with loraB. Default none. */
  loraA?: Tensor2D | null;
  /** lora_embedding_B [d_model, r], float32. */
  loraB?: Tensor2D | null;
}

/**
 * Looks the ids up. Differentiable in W, loraA and loraB.
 * @param scaling factor of the adapter's term; default 1
 * @returns ids' shape with d_model appended
 * @throws when a shape or dtype is not the documented one, an id lies outside the vocabulary (not checked on `cuda`), or only one of
 *   loraA and loraB is given
 */
export function loraEmbedding(inputs: LoraEmbeddingInputs, scaling = 1): Tensor {
  const { ids, W, loraA, loraB } = inputs;
  const op = 'loraEmbedding';
  if (W.rank !== 2) throw new Error(`${op}: W must have shape [vocab_size, d_model], got [${W.shape}]`);
  const [vocabSize, dModel] = W.shape;
  checkDtype(op, 'ids', ids, 'int32');
  if (!loraA !== !loraB) throw new Error(`${op}: loraA and loraB must be given together`);
  if (loraA) {
    const r = loraA.shape[0];
    checkShape(op, 'loraA', loraA, [r, vocabSize]);
    checkShape(op, 'loraB', loraB, [dModel, r]);
  }
  for (const [name, tensor] of Object.entries({ W, loraA, loraB })) checkDtype(op, name, tensor, 'float32');
  if (hasKernel('LoraEmbedding')) return runKernel<Tensor>('LoraEmbedding', { ...inputs }, { scaling });
  return tf.tidy(() => compositeEmbedding(inputs, scaling));
}

function compositeEmbedding({ ids, W, loraA, loraB }: LoraEmbeddingInputs, scaling: number): Tensor {
  checkIds(ids, W.shape[0]);
  const flat = tf.reshape(ids, [-1]);
  let rows: Tensor = tf.gather(W, flat);
  if (loraA && loraB)
    rows = tf.add(rows, tf.mul(scaling, tf.matMul(tf.gather(tf.transpose(loraA), flat), loraB, false, true)));
  return tf.reshape(rows, [...ids.shape, W.shape[1]]);
}
