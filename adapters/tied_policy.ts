// SPDX-License-Identifier: Apache-2.0
/** Policies for a head that is tied to adapted embeddings. */

/**
 * What becomes of a head that is tied to adapted embeddings. An adapter of the embeddings changes the lookup alone, so
 * `untie` (the default) gives the head the base matrix as its own and keeps the adapted model's logits; `tied_both` keeps one matrix,
 * the merged one, for both, which is another model (the one that mlx-lm trains); `refuse` refuses to merge.
 */
export const TIED_POLICIES = ['untie', 'tied_both', 'refuse'] as const;
export type TiedPolicy = (typeof TIED_POLICIES)[number];
