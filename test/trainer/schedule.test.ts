// SPDX-License-Identifier: Apache-2.0
/** Schedules against transformers' get_scheduler: its own numbers, and some worked out by hand. */
import { describe, expect, it } from 'vitest';
import { LR_SCHEDULER_TYPES } from '../../src/config/lr_schedules.ts';
import { createSchedule, type ScheduleOptions } from '../../trainer/schedule.ts';
import { expectSchedules } from './schedule_golden.ts';

const base = { learningRate: 2, totalSteps: 10 } as const;

function rates(options: Omit<ScheduleOptions, 'learningRate' | 'totalSteps'>, steps: number[]): number[] {
  const schedule = createSchedule({ ...base, ...options });
  return steps.map(schedule.learningRate);
}

describe('createSchedule', () => {
  it('linear without warm-up is lr * (1 - k / total)', () => {
    expect(rates({ type: 'linear' }, [0, 1, 5, 9, 10])).toEqual([2, 1.8, 1, 0.2, 0]);
  });

  it('linear with warm-up rises from 0, then falls to 0 at the last step', () => {
    expect(rates({ type: 'linear', warmupSteps: 4 }, [0, 1, 3, 4, 5, 7, 10])).toEqual([
      0,
      0.5,
      1.5,
      2,
      (2 * 5) / 6,
      1,
      0,
    ]);
  });

  it('rounds the warm-up ratio up to a step, and warmup_steps wins', () => {
    expect(rates({ type: 'linear', warmupRatio: 0.21 }, [0, 1, 2, 3])).toEqual([0, 2 / 3, 4 / 3, 2]);
    expect(rates({ type: 'linear', warmupRatio: 0.9, warmupSteps: 1 }, [0, 1])).toEqual([0, 2]);
  });

  it('cosine is a half wave', () => {
    const [first, quarter, half, last, end] = rates({ type: 'cosine', warmupSteps: 2 }, [2, 4, 6, 8, 10]);
    expect(first).toBe(2);
    expect(quarter).toBeCloseTo(1 + Math.SQRT1_2, 12);
    expect(half).toBeCloseTo(1, 12);
    expect(last).toBeCloseTo(1 - Math.SQRT1_2, 12);
    expect(end).toBeCloseTo(0, 12);
  });

  it('constant stays, with and without warm-up', () => {
    expect(rates({ type: 'constant', warmupSteps: 5 }, [0, 3, 9])).toEqual([2, 2, 2]);
    expect(rates({ type: 'constant_with_warmup', warmupSteps: 4 }, [0, 2, 4, 9])).toEqual([0, 1, 2, 2]);
  });

  it('gives the learning rates of transformers for every type', () => {
    expect(expectSchedules('test/golden/schedules/schedules.json')).toEqual(new Set(LR_SCHEDULER_TYPES));
  });

  it('keeps the state of reduce_lr_on_plateau', () => {
    const make = () => createSchedule({ ...base, type: 'reduce_lr_on_plateau', kwargs: { patience: 1, factor: 0.5 } });
    const metrics = [3, 3.1, 3.2, 2.5, 2.6, 2.7, 2.8];
    const whole = make();
    for (const metric of metrics) whole.observe(metric);
    for (let cut = 0; cut < metrics.length; cut++) {
      const first = make();
      for (const metric of metrics.slice(0, cut)) first.observe(metric);
      const second = make();
      second.restore(JSON.parse(JSON.stringify(first.state())));
      for (const metric of metrics.slice(cut)) second.observe(metric);
      expect(second.state()).toEqual(whole.state());
    }
    expect(whole.learningRate(0)).toBe(0.5);
  });
});
