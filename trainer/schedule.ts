// SPDX-License-Identifier: Apache-2.0
/** Learning-rate schedules, as get_scheduler of transformers.optimization (5.18) defines them. */
import type { LrSchedulerKwargs, LrSchedulerType } from '../src/config/lr_schedules.ts';
import { createPlateau, type PlateauState } from './plateau.ts';

export interface ScheduleOptions {
  type: LrSchedulerType;
  /** Peak. */
  learningRate: number;
  /** Optimizer steps of the whole run. */
  totalSteps: number;
  /** Steps in which the rate rises; wins over warmupRatio. Default 0. */
  warmupSteps?: number;
  /** Share of totalSteps for the rise, rounded up to a step. Default 0. */
  warmupRatio?: number;
  kwargs?: LrSchedulerKwargs;
}

export interface Schedule {
  /** Of an optimizer step, counted from 0. */
  learningRate(step: number): number;
  /** Hears of each evaluation's metric; reduce_lr_on_plateau alone listens. */
  observe(metric: number): void;
  /** What a checkpoint keeps; null where the step says it all. */
  state(): PlateauState | null;
  restore(state: PlateauState | null): void;
}

/** A schedule whose warm-up is not a straight rise, or that has none, gives its factor at any step. */
type Factor = (step: number) => number;

/** What the factors depend on. */
interface Course {
  peak: number;
  /** Steps of the warm-up, and of the whole run. */
  warmup: number;
  total: number;
  kwargs: LrSchedulerKwargs;
}

/** Makes a schedule: the learning rate is the peak times the type's factor. `constant` and `reduce_lr_on_plateau` know no warm-up. */
export function createSchedule(options: ScheduleOptions): Schedule {
  const { type, learningRate: peak, totalSteps: total, warmupSteps = 0, warmupRatio = 0, kwargs = {} } = options;
  if (type === 'reduce_lr_on_plateau') {
    const { rate, ...rest } = createPlateau(peak, kwargs);
    return { learningRate: rate, ...rest };
  }
  const warmup = warmupSteps > 0 ? warmupSteps : Math.ceil(total * warmupRatio);
  const factor = FACTORS[type]({ peak, warmup, total, kwargs });
  return { learningRate: (step) => peak * factor(step), observe: () => {}, state: () => null, restore: () => {} };
}

const FACTORS: Record<Exclude<LrSchedulerType, 'reduce_lr_on_plateau'>, (course: Course) => Factor> = {
  constant: () => () => 1,
  constant_with_warmup: (course) => afterWarmup(course, () => 1),
  linear: (course) => afterWarmup(course, (step) => Math.max(0, (course.total - step) / decaySteps(course))),
  cosine: (course) => afterWarmup(course, (step) => Math.max(0, cosineWave(course, step))),
  cosine_with_restarts: (course) =>
    afterWarmup(course, (step) => {
      const progress = (step - course.warmup) / decaySteps(course);
      if (progress >= 1) return 0;
      return Math.max(0, halfWave(((course.kwargs.num_cycles ?? 1) * progress) % 1));
    }),
  polynomial: (course) => {
    const { peak, warmup, total, kwargs } = course;
    const { lr_end: end = 1e-7, power = 1 } = kwargs;
    return afterWarmup(course, (step) => {
      if (step > total) return end / peak;
      const remaining = 1 - (step - warmup) / (total - warmup);
      return ((peak - end) * remaining ** power + end) / peak;
    });
  },
  inverse_sqrt: (course) => {
    const timescale = course.kwargs.timescale ?? (course.warmup || 10_000);
    return afterWarmup(course, (step) => 1 / Math.sqrt((step + timescale - course.warmup) / timescale));
  },
  cosine_with_min_lr: (course) => {
    const floor = floorOf(course);
    return afterWarmup(course, (step) => Math.max(0, raise(cosineWave(course, step), floor)));
  },
  cosine_warmup_with_min_lr: (course) => {
    const { warmup, kwargs } = course;
    const floor = floorOf(course);
    const first = kwargs.warmup_lr_rate;
    return (step) => {
      if (step >= warmup) return Math.max(0, raise(cosineWave(course, step + 1), floor));
      if (first === undefined) return (step + 1) / warmup;
      return first + ((1 - first) * step) / Math.max(1, warmup - 1);
    };
  },
  warmup_stable_decay: ({ warmup, total, kwargs }) => {
    const { num_decay_steps: decay = 0, min_lr_ratio: floor = 0, num_cycles: cycles = 0.5 } = kwargs;
    const { num_stable_steps: stable = total - warmup - decay, warmup_type = 'linear', decay_type = 'cosine' } = kwargs;
    return (step) => {
      if (step < warmup) return Math.max(0, raise(RISES[warmup_type](step / warmup), floor));
      if (step < warmup + stable) return 1;
      if (step >= warmup + stable + decay) return floor;
      return Math.max(0, raise(FALLS[decay_type]((step - warmup - stable) / decay, cycles), floor));
    };
  },
};

const RISES = {
  linear: (progress: number) => progress,
  cosine: (progress: number) => 0.5 * (1 - Math.cos(Math.PI * progress)),
  '1-sqrt': (progress: number) => 1 - Math.sqrt(1 - progress),
};

const FALLS = {
  linear: (progress: number) => 1 - progress,
  cosine: (progress: number, cycles: number) => halfWave(cycles * 2 * progress),
  '1-sqrt': (progress: number) => 1 - Math.sqrt(progress),
};

/** A straight rise from 0, then what `factor` says. */
function afterWarmup({ warmup }: Course, factor: Factor): Factor {
  return (step) => (step < warmup ? step / warmup : factor(step));
}

function cosineWave(course: Course, step: number): number {
  return halfWave(((course.kwargs.num_cycles ?? 0.5) * 2 * (step - course.warmup)) / decaySteps(course));
}

/** 1 at 0, 0 at 1. */
function halfWave(progress: number): number {
  return 0.5 * (1 + Math.cos(Math.PI * progress));
}

function decaySteps({ total, warmup }: Course): number {
  return Math.max(1, total - warmup);
}

function floorOf({ peak, kwargs }: Course): number {
  return kwargs.min_lr_rate ?? (kwargs.min_lr ?? 0) / peak;
}

/** From [0, 1] to [floor, 1]. */
function raise(factor: number, floor: number): number {
  return factor * (1 - floor) + floor;
}
