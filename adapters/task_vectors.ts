// SPDX-License-Identifier: Apache-2.0
/**
 * Weighted sums of tensors that were first made sparse or made to agree in sign. Answers to peft/utils/merge_utils.py:
 * TIES (Yadav et al. 2023), DARE (Yu et al. 2023), magnitude pruning.
 */
import type { Random } from '../src/random.ts';
import type { MajoritySignMethod } from './combine_types.ts';

/** Sum of weights[i] * tensors[i]. */
export function weightedSum(tensors: readonly Float64Array[], weights: readonly number[]): Float64Array {
  const sum = new Float64Array(tensors[0]?.length ?? 0);
  for (const [i, tensor] of tensors.entries()) {
    for (let k = 0; k < sum.length; k++) sum[k] = (sum[k] as number) + (weights[i] as number) * (tensor[k] as number);
  }
  return sum;
}

/** As {@link weightedSum}, of those values alone whose sign is the majority's, divided by their number. */
export function disjointMean(
  tensors: readonly Float64Array[],
  weights: readonly number[],
  method: MajoritySignMethod,
): Float64Array {
  return new Float64Array(tensors[0]?.length ?? 0).map((_, k) => {
    const values = tensors.map((tensor) => tensor[k] as number);
    const votes = values.reduce((sum, value) => sum + (method === 'total' ? value : Math.sign(value)), 0);
    const majority = votes >= 0 ? 1 : -1;
    let sum = 0;
    let count = 0;
    for (const [i, value] of values.entries()) {
      if (Math.sign(value) !== majority) continue;
      sum += value * (weights[i] as number);
      count++;
    }
    return sum / Math.max(count, 1);
  });
}

/** Keeps the floor(density * length) largest magnitudes (of equal ones the first), and zeroes the rest. */
export function pruneByMagnitude(tensor: Float64Array, density: number): Float64Array {
  if (density >= 1) return tensor;
  const order = Uint32Array.from(tensor.keys()).sort(
    (a, b) => Math.abs(tensor[b] as number) - Math.abs(tensor[a] as number) || a - b,
  );
  const pruned = new Float64Array(tensor.length);
  for (const k of order.subarray(0, Math.floor(density * tensor.length))) pruned[k] = tensor[k] as number;
  return pruned;
}

/** Keeps each value with probability `density`, divided by it, and zeroes the rest. */
export function pruneAtRandom(tensor: Float64Array, density: number, random: Random): Float64Array {
  if (density >= 1) return tensor;
  return tensor.map((value) => (random.uniform() < density ? value / density : 0));
}
