// SPDX-License-Identifier: Apache-2.0
/** Learning-rate schedules, as get_scheduler of transformers.optimization defines them. */

export type LrSchedulerType = 'linear' | 'cosine' | 'constant' | 'constant_with_warmup';

export interface ScheduleOptions {
  type: LrSchedulerType;
  /** Peak. */
  learningRate: number;
  /** Optimizer steps of the whole run. */
  totalSteps: number;
  /** Steps in which the rate rises from 0; wins over warmupRatio. Default 0. */
  warmupSteps?: number;
  /** Share of totalSteps for the rise, rounded up to a step. Default 0. */
  warmupRatio?: number;
}

/** The learning rate of an optimizer step, counted from 0. */
export type Schedule = (step: number) => number;

/**
 * Makes a schedule. After w warm-up steps of T: linear falls as (T - step) / (T - w), cosine as the half wave
 * (1 + cos(pi (step - w) / (T - w))) / 2, the constant ones stay. `constant` knows no warm-up.
 */
export function createSchedule(options: ScheduleOptions): Schedule {
  const { type, learningRate, totalSteps, warmupSteps = 0, warmupRatio = 0 } = options;
  if (type === 'constant') return () => learningRate;
  const warmup = warmupSteps > 0 ? warmupSteps : Math.ceil(totalSteps * warmupRatio);
  return (step) => {
    if (step < warmup) return learningRate * (step / warmup);
    if (type === 'constant_with_warmup') return learningRate;
    const decaySteps = Math.max(1, totalSteps - warmup);
    if (type === 'linear') return learningRate * Math.max(0, (totalSteps - step) / decaySteps);
    return learningRate * Math.max(0, 0.5 * (1 + Math.cos((Math.PI * (step - warmup)) / decaySteps)));
  };
}
