// SPDX-License-Identifier: Apache-2.0
/** Rows of single tokens in the place of the embeddings' own; answers to TrainableTokensLayer of peft. A tied head has them too. */
import type { Tensor, Tensor2D, Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { loraEmbedding } from '../ops/lora_embedding.ts';
import { replaceRows } from '../ops/replace_rows.ts';

export interface TokenRows {
  /** Ids of the tokens, in the order of the rows; none twice. */
  readonly indices: readonly number[];
  /** [indices.length, d_model] */
  readonly rows: Variable;
  /** [vocab_size, 1], float32: 1 + the row that a token has, 0 for one without. */
  readonly slots: Tensor2D;
  /** The whole matrix with the rows in it, once it has been computed, while they do not train. */
  matrix: Tensor2D | null;
}

/** @param rows [indices.length, d_model], owned by the result from here on */
export function tokenRows(indices: readonly number[], rows: Variable, vocabSize: number): TokenRows {
  const slots = new Float32Array(vocabSize);
  for (const [row, index] of indices.entries()) slots[index] = row + 1;
  return { indices, rows, slots: tf.keep(tf.tensor2d(slots, [vocabSize, 1])), matrix: null };
}

/**
 * The embedding matrix with the rows in it, differentiable in them. While they train it is a fresh tensor, to be computed inside a tidy;
 * else it is kept.
 * @param W [vocab_size, d_model]
 */
export function tokenMatrix(W: Tensor2D, tokens: TokenRows): Tensor2D {
  if (tokens.matrix) return tokens.matrix;
  const matrix = replaceRows(W, tokens.rows as unknown as Tensor2D, tokens.indices);
  if (!tokens.rows.trainable) tokens.matrix = tf.keep(matrix);
  return matrix;
}

/**
 * Looks ids up, differentiable in the rows. While they train the matrix is not made for it: each position's token is looked up in W and
 * among the rows (with one of zeros before them), and one of the two counts.
 * @param W [vocab_size, d_model]
 * @param ids int32, of any shape
 */
export function lookUpTokens(W: Tensor2D, tokens: TokenRows, ids: Tensor): Tensor {
  if (!tokens.rows.trainable) return loraEmbedding({ ids, W: tokenMatrix(W, tokens) });
  const slots = loraEmbedding({ ids, W: tokens.slots });
  const padded = tf.pad(tokens.rows as unknown as Tensor2D, [
    [1, 0],
    [0, 0],
  ]);
  const chosen = loraEmbedding({ ids: tf.reshape(tf.cast(slots, 'int32'), ids.shape), W: padded });
  const isBase = tf.cast(tf.equal(slots, tf.fill([1], 0)), 'float32');
  return tf.add(tf.mul(loraEmbedding({ ids, W }), isBase), chosen);
}

/** Frees what was computed from the base matrix; it is computed again when it is needed. */
export function forgetMatrix(tokens: TokenRows): void {
  tokens.matrix?.dispose();
  tokens.matrix = null;
}

export function disposeTokens(tokens: TokenRows): void {
  forgetMatrix(tokens);
  tf.dispose([tokens.rows, tokens.slots]);
}
