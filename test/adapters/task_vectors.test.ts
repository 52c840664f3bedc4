// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest';
import { disjointMean, pruneAtRandom, pruneByMagnitude, weightedSum } from '../../adapters/task_vectors.ts';
import { createRandom } from '../../src/random.ts';

const of = (...values: number[]) => Float64Array.of(...values);

test('weighted sums, with weights of either sign', () => {
  expect([...weightedSum([of(1, 2), of(10, -20)], [2, -0.5])]).toEqual([-3, 14]);
});

test('pruning by magnitude keeps the largest, of equal ones the first, rounding the count down', () => {
  expect([...pruneByMagnitude(of(1, -5, 3, -3, 2), 0.5)]).toEqual([0, -5, 3, 0, 0]);
  expect([...pruneByMagnitude(of(1, -5, 3, -3, 2), 0.79)]).toEqual([0, -5, 3, -3, 0]);
  expect([...pruneByMagnitude(of(1, -5), 0.49)]).toEqual([0, 0]);
  expect([...pruneByMagnitude(of(1, -5), 1)]).toEqual([1, -5]);
});

test('pruning at random keeps the share asked for, and the expected value', () => {
  const pruned = pruneAtRandom(new Float64Array(20_000).fill(1), 0.25, createRandom({ seed: 1 }));
  expect(new Set(pruned)).toEqual(new Set([0, 4]));
  const mean = pruned.reduce((sum, value) => sum + value, 0) / pruned.length;
  // Four standard deviations of the mean of 20,000 draws.
  expect(Math.abs(mean - 1)).toBeLessThan(4 * Math.sqrt(3 / 20_000));
});

test('the majority sign by size and by count; zeros vote for neither and are not averaged', () => {
  const tensors = [of(5, 0, 0), of(-1, -2, 0), of(-1, 4, 0)];
  expect([...disjointMean(tensors, [1, 1, 1], 'total')]).toEqual([5, 4, 0]);
  expect([...disjointMean(tensors, [1, 1, 1], 'frequency')]).toEqual([-1, 4, 0]);
  expect([...disjointMean(tensors, [1, 3, -3], 'frequency')]).toEqual([0, -12, 0]);
});
