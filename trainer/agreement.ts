// SPDX-License-Identifier: Apache-2.0
/** What the numbers of a run depend on, kept in each checkpoint; a resumed run must agree, or they would be another run's. */
import { ConfigError } from '../src/errors.ts';
import type { Checkpoint } from './checkpoints.ts';
import type { TrainerState } from './trainer_state.ts';
import type { TrainingJob } from './training_job.ts';

type Settings = TrainerState['settings'];

/** What may change from a checkpoint to its resumed run; a person is told. */
const MAY_CHANGE = new Set([
  'mambatune',
  'backend',
  'data.eval.sha256',
  ...[
    'num_train_epochs',
    'max_steps',
    'per_device_eval_batch_size',
    'gradient_checkpointing',
    'cuda_graphs',
    'logging_steps',
    'eval_strategy',
    'eval_steps',
    'save_strategy',
    'save_steps',
    'save_total_limit',
    'load_best_model_at_end',
    'early_stopping_patience',
    'early_stopping_threshold',
    'sample_prompts',
    'sample_max_new_tokens',
    'sample_temperature',
    'on_divergence',
    'loss_watchdog_threshold',
    'loss_watchdog_patience',
  ].map((key) => `trainer.${key}`),
]);
/** Where the run lies, and what chooses the backend, which is compared itself. */
const NOT_COMPARED = new Set(['output_dir', 'backend']);

/** The settings that a checkpoint keeps. */
export function settingsOf({ settings, facts, trained, shuffle, padTokenId, trainExamples }: TrainingJob): Settings {
  const { base_model_name_or_path: _, ...adapter } = trained.config.toJSON();
  const { train, eval: evaluation } = facts.data;
  const trainer = Object.entries(settings).filter(([key]) => !NOT_COMPARED.has(key));
  const all = {
    mambatune: facts.mambatune,
    backend: facts.backend,
    'model.sha256': facts.model.sha256,
    ...Object.fromEntries(Object.entries(adapter).map(([key, value]) => [`adapter.${key}`, value])),
    'data.train.sha256': train.sha256,
    'data.eval.sha256': evaluation?.sha256 ?? null,
    'data.shuffle': shuffle,
    'data.packing': trainExamples.at(0)?.seqIdx !== undefined,
    'data.rows': trainExamples.length,
    pad_token_id: padTokenId,
    ...Object.fromEntries(trainer.map(([key, value]) => [`trainer.${key}`, value])),
  };
  return JSON.parse(JSON.stringify(all)) as Settings;
}

/**
 * Compares a checkpoint's settings with those of the run that is to go on from it.
 * @returns a line for each difference that is allowed
 * @throws ConfigError listing the others
 */
export function checkAgreement({ folder, state }: Checkpoint, job: TrainingJob): string[] {
  const own = settingsOf(job);
  const theirs = state.settings;
  const show = (value: unknown) => (value === undefined ? 'not set' : JSON.stringify(value));
  const differing = [...new Set([...Object.keys(own), ...Object.keys(theirs)])].filter(
    (key) => show(own[key]) !== show(theirs[key]),
  );
  const refused = differing.filter((key) => !MAY_CHANGE.has(key));
  if (refused.length > 0) {
    const list = refused.map((key) => `\n  ${key} is ${show(own[key])}, the checkpoint has ${show(theirs[key])}`);
    throw new ConfigError(
      `resume: ${folder} belongs to a run with other settings:${list.join('')}\nGive this run the checkpoint's settings, or begin a new run from its weights with adapter.init_from.`,
    );
  }
  return differing.map((key) => `${key} is ${show(own[key])}; it was ${show(theirs[key])} before`);
}
