// SPDX-License-Identifier: Apache-2.0
/** Checkpoints of a run: checkpoint-<step>/ with the adapter, the optimizer and where the run stands. */
import { readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { PeftModel } from '../adapters/index.ts';
import { writeSafetensors } from '../src/checkpoint/safetensors_writer.ts';
import { replaceFolderAtomic } from '../src/files.ts';
import type { Optimizer } from './optimizer.ts';

/** trainer_state.json: with the config and the data, all that the next step depends on. */
export interface TrainerState {
  /** Optimizer steps taken. */
  step: number;
  total_steps: number;
  steps_per_epoch: number;
  /** Epochs that are over, with fraction. */
  epoch: number;
  /** Batches seen: the counter of the next dropout mask. */
  micro_step: number;
  /** Tokens seen, without padding. */
  tokens: number;
  seed: number;
  /** Hash of the training examples (run.json). */
  train_sha256: string;
  /** Losses of the steps since the last line of metrics. */
  interval_losses: readonly number[];
}

/** Name of a checkpoint's folder. */
export const CHECKPOINT_FOLDER = /^checkpoint-(\d+)$/;

/**
 * Writes a checkpoint, whole or not at all: the adapter's files, optimizer.safetensors, trainer_state.json.
 * @returns its folder
 * @throws UserError when it cannot be written
 */
export async function saveTrainingCheckpoint(
  runFolder: string,
  peftModel: PeftModel,
  optimizer: Optimizer,
  state: TrainerState,
): Promise<string> {
  const folder = join(runFolder, `checkpoint-${state.step}`);
  await replaceFolderAtomic(folder, async (temporary) => {
    await peftModel.savePretrained(temporary);
    writeSafetensors(join(temporary, 'optimizer.safetensors'), optimizer.tensors());
    writeFileSync(join(temporary, 'trainer_state.json'), `${JSON.stringify(state, null, 2)}\n`);
  });
  return folder;
}

/** Deletes the oldest checkpoints of a run, by step, until `limit` are left. */
export function pruneCheckpoints(runFolder: string, limit: number): void {
  const steps = readdirSync(runFolder)
    .flatMap((name) => CHECKPOINT_FOLDER.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b);
  for (const step of steps.slice(0, Math.max(0, steps.length - limit))) {
    rmSync(join(runFolder, `checkpoint-${step}`), { recursive: true, force: true });
  }
}
