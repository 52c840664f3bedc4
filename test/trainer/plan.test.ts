// SPDX-License-Identifier: Apache-2.0
/** Which examples each step sees. */
import { describe, expect, it } from 'vitest';
import { planTraining } from '../../trainer/plan.ts';

const options = { examples: 7, batchSize: 2, accumulationSteps: 3, epochs: 2, maxSteps: -1, seed: 1, shuffle: false };

describe('planTraining', () => {
  it('cuts each epoch into windows of batches that do not reach into the next', () => {
    const plan = planTraining(options);
    expect([plan.stepsPerEpoch, plan.totalSteps]).toEqual([2, 4]);
    expect([...plan.windows()].map(({ batches }) => batches.map((batch) => [...batch]))).toEqual([
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
    expect([...plan.windows()].map(({ step, firstBatch }) => [step, firstBatch])).toEqual([
      [0, 0],
      [1, 3],
      [2, 4],
      [3, 7],
    ]);
  });

  it('sees every example once an epoch, in another order each time, the same for the same seed', () => {
    const epochs = (seed: number) =>
      [...planTraining({ ...options, accumulationSteps: 4, shuffle: true, seed }).windows()].map(({ batches }) =>
        batches.flatMap((batch) => [...batch]),
      );
    const [first, second] = epochs(1);
    expect(first?.toSorted()).toEqual([0, 1, 2, 3, 4, 5, 6]);
    expect(second?.toSorted()).toEqual([0, 1, 2, 3, 4, 5, 6]);
    expect(second).not.toEqual(first);
    expect(epochs(1)[0]).toEqual(first);
    expect(epochs(2)[0]).not.toEqual(first);
  });

  it('finds any step again', () => {
    const plan = planTraining({ ...options, shuffle: true });
    expect([...plan.windows(3)]).toEqual([...plan.windows()].slice(3));
  });

  it('takes fractions of an epoch, and max_steps first', () => {
    expect(planTraining({ ...options, epochs: 0.3 }).totalSteps).toBe(1);
    const plan = planTraining({ ...options, maxSteps: 5 });
    expect([...plan.windows()]).toHaveLength(5);
    expect([1, 2, 3, 4, 5].map(plan.endsEpoch)).toEqual([false, true, false, true, true]);
    expect(plan.epochAfter(3)).toBe(1.5);
  });
});
