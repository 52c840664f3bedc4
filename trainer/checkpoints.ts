// SPDX-License-Identifier: Apache-2.0
/**
 * Checkpoints of a run: checkpoint-<step>/ with the adapter (PEFT files) or the model, optimizer.safetensors, trainer_state.json, and the
 * hashes of all of them in SHA256SUMS, which `sha256sum -c` reads too.
 */
import { createHash } from 'node:crypto';
import { closeSync, openSync, readdirSync, readFileSync, readSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeSafetensors } from '../src/checkpoint/safetensors_writer.ts';
import { messageOf } from '../src/errors.ts';
import { removeFolderAtomic, replaceFolderAtomic, TEMPORARY_NAME } from '../src/files.ts';
import type { TrainedModel } from './full_model.ts';
import type { Optimizer } from './optimizer.ts';
import { readTrainerState, STATE_FILE, type TrainerState } from './trainer_state.ts';

/** A whole checkpoint. */
export interface Checkpoint {
  folder: string;
  state: TrainerState;
}

/** Name of a checkpoint's folder. */
export const CHECKPOINT_FOLDER = /^checkpoint-(\d+)$/;
/** The same under the name it has while it is written or replaced. */
const UNFINISHED = /^\.checkpoint-(\d+)\.[0-9a-f]+\.tmp$/;

const OPTIMIZER_FILE = 'optimizer.safetensors';
const SUMS_FILE = 'SHA256SUMS';
const SUM_LINE = /^([0-9a-f]{64}) {2}([\w.-]+)$/;
/** Beside the files of an adapter, or of a model. */
const REQUIRED = [OPTIMIZER_FILE, STATE_FILE];
const ADAPTER_FILES = ['adapter_config.json', 'adapter_model.safetensors'];

/**
 * Writes a checkpoint, whole or not at all.
 * @returns its folder
 * @throws UserError when it cannot be written
 */
export async function saveTrainingCheckpoint(
  runFolder: string,
  trained: Pick<TrainedModel, 'savePretrained'>,
  optimizer: Optimizer,
  state: TrainerState,
): Promise<string> {
  const folder = join(runFolder, checkpointName(state.step));
  await replaceFolderAtomic(folder, async (temporary) => {
    await trained.savePretrained(temporary);
    writeSafetensors(join(temporary, OPTIMIZER_FILE), optimizer.tensors());
    writeFileSync(join(temporary, STATE_FILE), `${JSON.stringify(state)}\n`);
    const names = readdirSync(temporary).sort();
    const sums = names.map((name) => `${hashFile(join(temporary, name))}  ${name}\n`);
    writeFileSync(join(temporary, SUMS_FILE), sums.join(''));
  });
  return folder;
}

/** Path of a checkpoint's optimizer.safetensors: parameters and moments. */
export function optimizerFile({ folder }: Checkpoint): string {
  return join(folder, OPTIMIZER_FILE);
}

export function checkpointName(step: number): string {
  return `checkpoint-${step}`;
}

/**
 * Reads a checkpoint of which every file must be as it was written.
 * @returns or why it is not whole
 * @throws UserError when it is whole and of another version
 */
export function readCheckpoint(folder: string): Checkpoint | { fault: string } {
  const fault = findFault(folder);
  return fault === undefined ? { folder, state: readTrainerState(folder) } : { fault };
}

/**
 * The whole checkpoint of the highest step, also one that a process was stopped in replacing.
 * @param onTorn called with the folder of each newer one that is not whole, and why
 */
export function findCheckpoint(
  runFolder: string,
  onTorn: (folder: string, fault: string) => void,
): Checkpoint | undefined {
  const candidates = readdirSync(runFolder)
    .flatMap((name) => {
      const step = CHECKPOINT_FOLDER.exec(name)?.[1] ?? UNFINISHED.exec(name)?.[1];
      return step === undefined ? [] : [{ name, step: Number(step), isUnfinished: UNFINISHED.test(name) }];
    })
    .sort((a, b) => b.step - a.step || Number(a.isUnfinished) - Number(b.isUnfinished));
  for (const { name, step, isUnfinished } of candidates) {
    const folder = join(runFolder, name);
    const found = readCheckpoint(folder);
    if ('fault' in found) {
      if (!isUnfinished) onTorn(folder, found.fault);
    } else if (isUnfinished) {
      const finished = join(runFolder, checkpointName(step));
      rmSync(finished, { recursive: true, force: true });
      renameSync(folder, finished);
      return { ...found, folder: finished };
    } else return found;
  }
  return undefined;
}

/**
 * Deletes the oldest checkpoints of a run, by step, until `limit` are left.
 * @param kept step of one that stays; null for none
 */
export function pruneCheckpoints(runFolder: string, limit: number, kept: number | null): void {
  const steps = checkpointSteps(runFolder);
  const old = steps.slice(0, Math.max(0, steps.length - limit)).filter((step) => step !== kept);
  for (const step of old) removeFolderAtomic(join(runFolder, checkpointName(step)));
}

/** Deletes checkpoints of steps after `step`, and what stopped processes left under temporary names. @returns the names of the first */
export function removeLaterCheckpoints(runFolder: string, step: number): string[] {
  const later = checkpointSteps(runFolder)
    .filter((other) => other > step)
    .map(checkpointName);
  for (const name of later) removeFolderAtomic(join(runFolder, name));
  for (const name of readdirSync(runFolder).filter((name) => TEMPORARY_NAME.test(name))) {
    rmSync(join(runFolder, name), { recursive: true, force: true });
  }
  return later;
}

/** Ascending. */
function checkpointSteps(runFolder: string): number[] {
  return readdirSync(runFolder)
    .flatMap((name) => CHECKPOINT_FOLDER.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b);
}

function findFault(folder: string): string | undefined {
  const sums = new Map<string, string>();
  try {
    for (const line of readFileSync(join(folder, SUMS_FILE), 'utf8').trimEnd().split('\n')) {
      const [, sum, name] = SUM_LINE.exec(line) ?? [];
      if (sum === undefined || name === undefined) return `${SUMS_FILE} is damaged`;
      sums.set(name, sum);
    }
    const files = sums.has('config.json') ? REQUIRED : [...ADAPTER_FILES, ...REQUIRED];
    const missing = files.find((name) => !sums.has(name));
    if (missing !== undefined) return `${SUMS_FILE} does not list ${missing}`;
    for (const [name, sum] of sums) {
      if (hashFile(join(folder, name)) !== sum) return `${name} is not as it was written`;
    }
  } catch (error) {
    return messageOf(error);
  }
  return undefined;
}

function hashFile(path: string): string {
  const hash = createHash('sha256');
  const descriptor = openSync(path, 'r');
  try {
    const buffer = Buffer.allocUnsafe(1 << 20);
    for (let length = readSync(descriptor, buffer); length > 0; length = readSync(descriptor, buffer)) {
      hash.update(buffer.subarray(0, length));
    }
  } finally {
    closeSync(descriptor);
  }
  return hash.digest('hex');
}
