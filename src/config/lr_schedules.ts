// SPDX-License-Identifier: Apache-2.0
/** The learning-rate schedules of transformers by name, and which keys of lr_scheduler_kwargs each of them takes. */
import { z } from 'zod';

const COSINE_FLOOR = ['num_cycles', 'min_lr', 'min_lr_rate'] as const;

/** What each schedule reads from lr_scheduler_kwargs. */
export const LR_SCHEDULE_KWARGS = {
  linear: [],
  cosine: ['num_cycles'],
  cosine_with_restarts: ['num_cycles'],
  polynomial: ['lr_end', 'power'],
  constant: [],
  constant_with_warmup: [],
  inverse_sqrt: ['timescale'],
  reduce_lr_on_plateau: ['mode', 'factor', 'patience', 'threshold', 'threshold_mode', 'cooldown', 'min_lr', 'eps'],
  cosine_with_min_lr: COSINE_FLOOR,
  cosine_warmup_with_min_lr: [...COSINE_FLOOR, 'warmup_lr_rate'],
  warmup_stable_decay: [
    'num_decay_steps',
    'num_stable_steps',
    'warmup_type',
    'decay_type',
    'min_lr_ratio',
    'num_cycles',
  ],
} as const satisfies Record<string, readonly string[]>;

export type LrSchedulerType = keyof typeof LR_SCHEDULE_KWARGS;

export const LR_SCHEDULER_TYPES = Object.keys(LR_SCHEDULE_KWARGS) as [LrSchedulerType, ...LrSchedulerType[]];

/** Names of transformers that are not taken, and why. */
export const REFUSED_LR_SCHEDULES: Readonly<Record<string, string>> = {
  greedy:
    'greedy raises the rate while the loss falls, up to 1.0 by default, where an adapter diverges; use reduce_lr_on_plateau, which only lowers it',
};

const SHAPES = ['linear', 'cosine', '1-sqrt'] as const;
const positive = z.number().gt(0);
const rate = z.number().min(0).max(1);

export const lrSchedulerKwargsSchema = z.strictObject({
  num_cycles: positive
    .optional()
    .describe(
      'cosine, cosine_*_min_lr, warmup_stable_decay: waves of the cosine, 0.5 by default, down once; cosine_with_restarts: number of half waves, 1 by default.',
    ),
  power: positive.optional().describe('polynomial: exponent of the decay, 1 by default.'),
  lr_end: z.number().min(0).optional().describe('polynomial: last learning rate, 1e-7 by default.'),
  timescale: positive
    .optional()
    .describe(
      'inverse_sqrt: steps after which the rate has fallen by a root of 2; the warm-up steps by default, 10000 without.',
    ),
  min_lr: z
    .number()
    .min(0)
    .optional()
    .describe('cosine_*_min_lr: last learning rate; reduce_lr_on_plateau: lowest learning rate, 0 by default.'),
  min_lr_rate: rate
    .optional()
    .describe('cosine_*_min_lr: last learning rate as a share of the peak; instead of min_lr.'),
  warmup_lr_rate: rate
    .optional()
    .describe(
      'cosine_warmup_with_min_lr: learning rate of the first step as a share of the peak; without it the rise begins one step above 0.',
    ),
  num_decay_steps: z.int().min(1).optional().describe('warmup_stable_decay: steps of the decay; needed.'),
  num_stable_steps: z
    .int()
    .min(0)
    .optional()
    .describe('warmup_stable_decay: steps at the peak; what warm-up and decay leave of the run by default.'),
  warmup_type: z.enum(SHAPES).optional().describe('warmup_stable_decay: shape of the rise, linear by default.'),
  decay_type: z.enum(SHAPES).optional().describe('warmup_stable_decay: shape of the decay, cosine by default.'),
  min_lr_ratio: rate
    .optional()
    .describe('warmup_stable_decay: first and last learning rate as a share of the peak, 0 by default.'),
  mode: z
    .enum(['min', 'max'])
    .optional()
    .describe('reduce_lr_on_plateau: whether the metric should fall, by default, or rise.'),
  factor: z.number().gt(0).lt(1).optional().describe('reduce_lr_on_plateau: factor of the rate, 0.1 by default.'),
  patience: z
    .int()
    .min(0)
    .optional()
    .describe('reduce_lr_on_plateau: evaluations without improvement that are let pass, 10 by default.'),
  threshold: z
    .number()
    .min(0)
    .optional()
    .describe('reduce_lr_on_plateau: smallest improvement that counts, 1e-4 by default.'),
  threshold_mode: z
    .enum(['rel', 'abs'])
    .optional()
    .describe('reduce_lr_on_plateau: threshold as a share of the best metric, by default, or as a difference.'),
  cooldown: z
    .int()
    .min(0)
    .optional()
    .describe('reduce_lr_on_plateau: evaluations to wait after a reduction, 0 by default.'),
  eps: z.number().min(0).optional().describe('reduce_lr_on_plateau: smallest change of the rate, 1e-8 by default.'),
});

export type LrSchedulerKwargs = z.output<typeof lrSchedulerKwargsSchema>;
