// SPDX-License-Identifier: Apache-2.0
/**
 * The loss of each row by itself, for evaluation:
 *
 *     loss[i] = logsumexp(hidden_i W^T) - (hidden_i W^T)[labels[i]]
 *
 * Not differentiable. The logits of a few rows at a time are in memory.
 */
import type { Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { loraLinear } from './lora_linear.ts';

/** Most logits in memory at a time: 64 MiB. */
const MOST_LOGITS = 1 << 24;

/**
 * @param hidden [n, d_model], float32
 * @param W [vocab_size, d_model]
 * @param labels [n], each from 0 below vocab_size
 * @returns [n] losses in nats, in host memory
 */
export function rowCrossEntropy(hidden: Tensor2D, W: Tensor2D, labels: Int32Array): Float32Array {
  const [n, width] = hidden.shape;
  if (labels.length !== n) throw new Error(`rowCrossEntropy: ${n} rows, but ${labels.length} labels`);
  const losses = new Float32Array(n);
  const step = Math.max(1, Math.floor(MOST_LOGITS / W.shape[0]));
  for (let start = 0; start < n; start += step) {
    const count = Math.min(step, n - start);
    const part = tf.tidy(() => {
      const rows = tf.slice(hidden, [start, 0], [count, width]);
      return lossesOf(loraLinear({ x: rows, W }) as Tensor2D, labels.subarray(start, start + count));
    });
    losses.set(part.dataSync<'float32'>(), start);
    part.dispose();
  }
  return losses;
}

function lossesOf(logits: Tensor2D, labels: Int32Array): Tensor1D {
  const [count, vocabSize] = logits.shape;
  const places = labels.map((label, row) => row * vocabSize + label);
  const target = tf.gather(tf.reshape(logits, [-1]), tf.tensor1d(places, 'int32'));
  const highest = tf.max(logits, 1, true);
  const logSumExp = tf.log(tf.sum(tf.exp(tf.sub(logits, highest)), 1));
  return tf.sub(logSumExp, tf.sub(target, tf.reshape(highest, [count]))) as Tensor1D;
}
