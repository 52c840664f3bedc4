// SPDX-License-Identifier: Apache-2.0
/** Document boundaries of packed rows, as the composite ops need them. */
import type { Tensor, Tensor2D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';

/**
 * 1 where position t belongs to another document than position t - 1, else 0, as float32 [batch, seqlen].
 * @param seqIdx document of each position, int32 [batch, seqlen]
 * @param first value at t = 0
 */
export function documentStarts(seqIdx: Tensor2D, first: 0 | 1): Tensor2D {
  const [batch, seqlen] = seqIdx.shape;
  const changes = tf.notEqual(
    tf.slice(seqIdx, [0, 1], [batch, seqlen - 1]),
    tf.slice(seqIdx, [0, 0], [batch, seqlen - 1]),
  );
  return tf.concat([tf.fill([batch, 1], first), tf.cast(changes, 'float32') as Tensor], 1) as Tensor2D;
}
