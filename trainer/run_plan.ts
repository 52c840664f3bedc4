// SPDX-License-Identifier: Apache-2.0
/** The plan of a run's steps, and what all of its batches hold together. */
import { tokenCounts } from '../datasets/index.ts';
import { planTraining, type TrainingPlan } from './plan.ts';
import type { TrainingJob } from './training_job.ts';

export type PlannedJob = Pick<TrainingJob, 'trainExamples' | 'settings' | 'shuffle'>;

export function planOfRun({ trainExamples, settings, shuffle }: PlannedJob): TrainingPlan {
  return planTraining({
    examples: trainExamples.length,
    batchSize: settings.per_device_train_batch_size,
    accumulationSteps: settings.gradient_accumulation_steps,
    epochs: settings.num_train_epochs,
    maxSteps: settings.max_steps,
    seed: settings.seed,
    shuffle,
    groupByLength: settings.group_by_length ? tokenCounts(trainExamples) : undefined,
  });
}

export interface PlanTotals {
  /** Tokens of all steps, without padding. */
  tokens: number;
  /** The same and padding. */
  positions: number;
  /** Number of the window with the batch of most positions. */
  largestWindow: number;
  /** That batch. */
  largestBatch: { batch: number; seqlen: number };
}

/**
 * Goes through every batch of a run without making it.
 * @param multiple what the length of a batch is rounded up to
 */
export function totalsOf(plan: TrainingPlan, counts: Int32Array, multiple: number): PlanTotals {
  const totals: PlanTotals = { tokens: 0, positions: 0, largestWindow: 0, largestBatch: { batch: 0, seqlen: 0 } };
  let most = -1;
  for (let index = 0; index < plan.totalSteps; index++) {
    for (const indices of plan.window(index).batches) {
      let longest = 0;
      for (const example of indices) {
        const count = counts[example] as number;
        totals.tokens += count;
        longest = Math.max(longest, count);
      }
      const seqlen = Math.ceil(longest / multiple) * multiple;
      const positions = indices.length * seqlen;
      totals.positions += positions;
      if (positions <= most) continue;
      most = positions;
      totals.largestWindow = index;
      totals.largestBatch = { batch: indices.length, seqlen };
    }
  }
  return totals;
}
