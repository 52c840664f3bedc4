// SPDX-License-Identifier: Apache-2.0
/** Compares the schedules with a file that test/golden/schedules/make_schedules.py wrote. */
import { readFileSync } from 'node:fs';
import { expect } from 'vitest';
import type { LrSchedulerKwargs, LrSchedulerType } from '../../src/config/lr_schedules.ts';
import { createSchedule } from '../../trainer/schedule.ts';
import { expectClose } from '../helpers/compare.ts';

interface ScheduleGolden {
  learning_rate: number;
  total_steps: number;
  courses: { type: LrSchedulerType; warmup_steps: number; kwargs: LrSchedulerKwargs; rates: number[] }[];
  metrics: number[];
  plateaus: { kwargs: LrSchedulerKwargs; rates: number[] }[];
}

/** @returns the types that were compared */
export function expectSchedules(path: string): Set<LrSchedulerType> {
  const golden = JSON.parse(readFileSync(path, 'utf8')) as ScheduleGolden;
  const base = { learningRate: golden.learning_rate, totalSteps: golden.total_steps };
  for (const { type, warmup_steps: warmupSteps, kwargs, rates } of golden.courses) {
    const schedule = createSchedule({ ...base, type, warmupSteps, kwargs });
    const name = `${type} ${warmupSteps} ${JSON.stringify(kwargs)}`;
    const scale = golden.learning_rate;
    expectClose(
      rates.map((_, step) => schedule.learningRate(step) / scale),
      rates.map((rate) => rate / scale),
      { atol: 1e-14, rtol: 0, name },
    );
    expect(schedule.state()).toBeNull();
  }
  for (const { kwargs, rates } of golden.plateaus) {
    const schedule = createSchedule({ ...base, type: 'reduce_lr_on_plateau', kwargs });
    const own = golden.metrics.map((metric) => {
      schedule.observe(metric);
      return schedule.learningRate(0);
    });
    expect(own, JSON.stringify(kwargs)).toEqual(rates);
  }
  return new Set([...golden.courses.map(({ type }) => type), 'reduce_lr_on_plateau']);
}
