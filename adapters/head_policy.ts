// SPDX-License-Identifier: Apache-2.0
/** Policies for converting an adapter of embeddings between programs that treat a tied head differently. */

/**
 * mlx-lm applies an adapter of the embeddings to a tied head as well, peft to the lookup alone, so that a converted one is another model.
 * `refuse` (the default) says so and converts nothing; `convert` converts it none the less, for a model whose head is not tied or a user who
 * accepts the difference; `drop` leaves the embeddings out.
 */
export const EMBEDDING_POLICIES = ['refuse', 'convert', 'drop'] as const;
export type EmbeddingPolicy = (typeof EMBEDDING_POLICIES)[number];
