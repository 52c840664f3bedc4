// SPDX-License-Identifier: Apache-2.0
/** Which examples each step sees. */
import { describe, expect, it } from 'vitest';
import { planTraining, type TrainingPlan, type Window } from '../../trainer/plan.ts';

const options = { examples: 7, batchSize: 2, accumulationSteps: 3, epochs: 2, maxSteps: -1, seed: 1, shuffle: false };

/** The windows of a whole run. */
function windows(plan: TrainingPlan): Window[] {
  return Array.from({ length: plan.totalSteps }, (_, index) => plan.window(index));
}

describe('planTraining', () => {
  it('cuts each epoch into windows of batches that do not reach into the next', () => {
    const plan = planTraining(options);
    expect([plan.stepsPerEpoch, plan.totalSteps]).toEqual([2, 4]);
    expect(windows(plan).map(({ batches }) => batches.map((batch) => [...batch]))).toEqual([
      [
        [0, 1],
        [2, 3],
        [4, 5],
      ],
      [[6]],
      [
        [0, 1],
        [2, 3],
        [4, 5],
      ],
      [[6]],
    ]);
    expect(windows(plan).map(({ firstBatch }) => firstBatch)).toEqual([0, 3, 4, 7]);
  });

  it('sees every example once an epoch, in another order each time, the same for the same seed', () => {
    const epochs = (seed: number) =>
      windows(planTraining({ ...options, accumulationSteps: 4, shuffle: true, seed })).map(({ batches }) =>
        batches.flatMap((batch) => [...batch]),
      );
    const [first, second] = epochs(1);
    expect(first?.toSorted()).toEqual([0, 1, 2, 3, 4, 5, 6]);
    expect(second?.toSorted()).toEqual([0, 1, 2, 3, 4, 5, 6]);
    expect(second).not.toEqual(first);
    expect(epochs(1)[0]).toEqual(first);
    expect(epochs(2)[0]).not.toEqual(first);
  });

  it('finds any window again, in any order, and those beyond the run too', () => {
    for (const groupByLength of [undefined, Int32Array.of(4, 9, 2, 2, 7, 5, 3)]) {
      const plan = planTraining({ ...options, shuffle: true, groupByLength });
      const all = windows(plan);
      for (const index of [3, 0, 2, 1]) expect(plan.window(index)).toEqual(all[index]);
      expect(plan.window(5)).toEqual(planTraining({ ...options, epochs: 9, shuffle: true, groupByLength }).window(5));
    }
  });

  it('groups by length: every example once, neighbours in length together, the longest first', () => {
    const lengths = Int32Array.from({ length: 103 }, (_, i) => 1 + ((i * 37) % 101));
    const grouped = (seed: number) =>
      windows(
        planTraining({
          ...options,
          examples: 103,
          batchSize: 4,
          epochs: 1,
          shuffle: true,
          seed,
          groupByLength: lengths,
        }),
      );
    const batches = grouped(1).flatMap((window) => window.batches.map((batch) => [...batch]));
    expect(batches.flat().toSorted((a, b) => a - b)).toEqual(Array.from(lengths, (_, i) => i));
    expect(batches.at(-1)).toHaveLength(3);
    for (const batch of batches) {
      const sizes = batch.map((index) => lengths[index] as number);
      expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThan(8);
    }
    expect(batches[0]?.map((index) => lengths[index])).toContain(101);
    const longest = batches.map((batch) => Math.max(...batch.map((index) => lengths[index] as number)));
    expect(longest).not.toEqual(longest.toSorted((a, b) => b - a));
    expect(grouped(2)[1]?.batches).not.toEqual(grouped(1)[1]?.batches);
  });

  it('takes fractions of an epoch, and max_steps first', () => {
    expect(planTraining({ ...options, epochs: 0.3 }).totalSteps).toBe(1);
    const plan = planTraining({ ...options, maxSteps: 5 });
    expect(plan.totalSteps).toBe(5);
    expect([1, 2, 3, 4, 5].map(plan.endsEpoch)).toEqual([false, true, false, true, true]);
    expect(plan.epochAfter(3)).toBe(1.5);
  });
});
