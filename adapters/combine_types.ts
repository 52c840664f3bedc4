// SPDX-License-Identifier: Apache-2.0
/** The ways to combine adapters, by peft's names. */

/**
 * `linear`: sums of A and of B; `cat`: exact, ranks add up; `svd`: the nearest sum of a given rank; `ties`, `dare_linear`, `dare_ties`,
 * `magnitude_prune`: sums of A and of B after pruning.
 */
export const COMBINATION_TYPES = [
  'svd',
  'linear',
  'cat',
  'ties',
  'dare_linear',
  'dare_ties',
  'magnitude_prune',
] as const;
export type CombinationType = (typeof COMBINATION_TYPES)[number];

/** Those that take a density. */
export const PRUNING_TYPES: readonly CombinationType[] = ['ties', 'dare_linear', 'dare_ties', 'magnitude_prune'];

/** How the sign that most tensors agree on is found: by the sum of their values, or by the count of their signs. */
export const MAJORITY_SIGN_METHODS = ['total', 'frequency'] as const;
export type MajoritySignMethod = (typeof MAJORITY_SIGN_METHODS)[number];
