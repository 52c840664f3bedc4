// SPDX-License-Identifier: Apache-2.0
/** trainer_state.json of a checkpoint: with the config, the data and optimizer.safetensors, all that the next step depends on. */
import { join } from 'node:path';
import { z } from 'zod';
import { UserError } from '../src/errors.ts';
import { readJsonFile } from '../src/files.ts';

export const STATE_FILE = 'trainer_state.json';

const count = z.int().min(0);
/** JSON has no NaN and no infinity: null stands for both. */
const number = z
  .number()
  .nullable()
  .transform((value) => value ?? Number.NaN);

const progressSchema = z.strictObject({
  /** Optimizer steps taken. */
  step: count,
  /** Number of the next window of data. */
  cursor: count,
  /** Epochs that are over, with fraction. */
  epoch: z.number(),
  /** Batches seen: the counter of the next dropout mask. */
  micro_step: count,
  /** Tokens seen, without padding. */
  tokens: count,
});

const recorderSchema = z.strictObject({
  /** Where each log stood; of metrics.jsonl, the first, its size. */
  log_places: z.array(count),
  /** The steps since the last line of metrics. */
  interval: z.strictObject({
    losses: z.array(number),
    tokens: count,
    seconds: z.number(),
    last: z
      .strictObject({ ...progressSchema.omit({ cursor: true }).shape, grad_norm: number, learning_rate: z.number() })
      .nullable(),
  }),
  /** Steps that were left out, because a number was not finite. */
  skipped_steps: count,
  /** Of each step. */
  losses: z.array(number),
  grad_norms: z.array(number),
  eval_losses: z.array(z.strictObject({ step: count, epoch: z.number(), loss: number, perplexity: number })),
  /** Wall time of the training steps. */
  step_seconds: z.number(),
});

const coverageSchema = z.array(
  z.strictObject({
    name: z.string(),
    grad_norm: z.number().nullable(),
    step: count.nullable(),
    /** Steps that may still pass before a tensor without a gradient ends the run. */
    tries: count,
  }),
);

const stateSchema = z.strictObject({
  version: z.literal(1),
  ...progressSchema.shape,
  total_steps: count,
  steps_per_epoch: count,
  /** Whether the evaluation that was due after the last step has been made. */
  is_evaluated: z.boolean(),
  /** Key of all random numbers; with the epoch and micro_step, where each stream stands. */
  seed: count,
  /** What the numbers depend on, as dotted keys; a resumed run must agree. */
  settings: z.record(z.string(), z.json()),
  recorder: recorderSchema,
  coverage: coverageSchema,
  /** Under the names of transformers' TrainerState. */
  best: z.strictObject({
    best_metric: z.number().nullable(),
    best_global_step: count.nullable(),
    early_stopping_patience_counter: count,
  }),
  /** Of reduce_lr_on_plateau, under the names of torch's. */
  lr_scheduler: z
    .strictObject({
      learning_rate: z.number(),
      best: z.number().nullable(),
      num_bad_epochs: count,
      cooldown_counter: count,
    })
    .nullable(),
  /** Steps in a row. */
  watchdog: z.strictObject({ high_losses: count, skips: count }),
  /** Wall time of the run so far. */
  seconds: z.number(),
});

export type TrainerState = z.output<typeof stateSchema>;
export type RecorderState = z.output<typeof recorderSchema>;
export type CoverageState = z.output<typeof coverageSchema>;

/** @throws UserError naming what is wrong */
export function readTrainerState(folder: string): TrainerState {
  const path = join(folder, STATE_FILE);
  const parsed = stateSchema.safeParse(readJsonFile(path));
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new UserError(
    `${path}: ${issue?.path.join('.')}: ${issue?.message}. It was written by another version of mambatune, or changed; go on with the version that wrote it, or begin a new run from this checkpoint's adapter (adapter.init_from).`,
  );
}
