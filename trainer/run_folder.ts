// SPDX-License-Identifier: Apache-2.0
/** A run's folder: whose it may be, what an earlier run left in it, and its record run.json. */
import { accessSync, constants, existsSync, mkdirSync, readdirSync, rmSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { ConfigError, messageOf } from '../src/errors.ts';
import { fileError, readJsonFile, TEMPORARY_NAME, writeFileAtomic } from '../src/files.ts';
import { CHECKPOINT_FOLDER } from './checkpoints.ts';
import type { RunFacts } from './provenance.ts';

/** How a run stands. */
export type RunStatus = 'running' | 'finished' | 'interrupted' | 'failed';

/** What a run leaves in its folder beside its checkpoints. */
const OUTPUTS = [
  'metrics.jsonl',
  'coverage.json',
  'config.yaml',
  'run.json',
  'report.html',
  'adapter',
  'model',
  'tensorboard',
];

/**
 * Checks, before any work is done, that a run can have this folder: it is new, empty, or of an earlier run. Makes it when it is
 * missing.
 *
 * @returns whether an earlier run is in it
 * @throws ConfigError when it holds something else; UserError when it cannot be written
 */
export function checkRunFolder(folder: string): { hasEarlierRun: boolean } {
  let entries: string[];
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK | constants.X_OK);
    entries = readdirSync(folder).filter((name) => !name.startsWith('.'));
  } catch (error) {
    throw fileError(error, folder, 'write');
  }
  if (entries.length === 0) return { hasEarlierRun: false };
  if (isRun(folder)) return { hasEarlierRun: true };
  const shown = entries.sort().slice(0, 5).join(', ');
  throw new ConfigError(
    `trainer.output_dir: ${folder} is not empty (${shown}${entries.length > 5 ? ', …' : ''}) and holds no run.json of an earlier run; choose another folder, or empty this one.`,
  );
}

/** Checks the same as {@link checkRunFolder}, and that a folder that is missing could be made; makes none. */
export function inspectRunFolder(folder: string): void {
  if (existsSync(folder)) {
    checkRunFolder(folder);
    return;
  }
  let parent = resolve(folder, '..');
  while (!existsSync(parent)) parent = dirname(parent);
  try {
    if (!statSync(parent).isDirectory()) throw new ConfigError(`trainer.output_dir: ${parent} is a file`);
    accessSync(parent, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw fileError(error, folder, 'write');
  }
}

/** Removes what an earlier run left, but for run.json, by which the folder is known; files that no run writes stay. */
export function clearEarlierRun(folder: string): void {
  const isOutput = (name: string) =>
    OUTPUTS.includes(name) || CHECKPOINT_FOLDER.test(name) || TEMPORARY_NAME.test(name);
  const outputs = readdirSync(folder).filter((name) => isOutput(name) && name !== 'run.json');
  for (const name of outputs) rmSync(join(folder, name), { recursive: true, force: true });
}

/** The facts of a run that goes on after `step`: begun when it was, with the times it was taken up again. */
export function resumedFacts(folder: string, facts: RunFacts, step: number): RunFacts {
  const path = join(folder, 'run.json');
  const earlier = existsSync(path) ? (readJsonFile(path) as Partial<RunFacts>) : {};
  return {
    ...facts,
    started_at: earlier.started_at ?? facts.started_at,
    resumes: [...(earlier.resumes ?? []), { at: facts.started_at, step }],
  };
}

/** Writes run.json. */
export function writeRunRecord(folder: string, facts: RunFacts, status: RunStatus, details: object = {}): void {
  const record = {
    ...facts,
    status,
    ...(status !== 'running' && { finished_at: new Date().toISOString() }),
    ...details,
  };
  writeFileAtomic(join(folder, 'run.json'), `${JSON.stringify(record, null, 2)}\n`);
}

function isRun(folder: string): boolean {
  const path = join(folder, 'run.json');
  if (!existsSync(path)) return false;
  try {
    return typeof readJsonFile(path).mambatune === 'string';
  } catch (error) {
    throw new ConfigError(`trainer.output_dir: ${folder} holds a run.json that cannot be read: ${messageOf(error)}`);
  }
}
