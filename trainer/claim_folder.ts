// SPDX-License-Identifier: Apache-2.0
/** Takes a run folder for a run: a new one in place of an earlier one, or a resumed one from a checkpoint in it. */
import { existsSync, realpathSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { ConfigError, UserError } from '../src/errors.ts';
import { CHECKPOINT_FOLDER, type Checkpoint, findCheckpoint, readCheckpoint } from './checkpoints.ts';
import { lockRunFolder, type RunLock } from './lock.ts';
import { checkRunFolder } from './run_folder.ts';

/** true: from the newest whole checkpoint of the run folder; a string: from that checkpoint, or from the newest of that run folder. */
export type Resume = boolean | string;

export interface ClaimedFolder {
  /** To be released when the run is over. */
  lock: RunLock;
  /** null: begin at the first step. */
  checkpoint: Checkpoint | null;
}

/**
 * Checks that a run can have its folder, locks it, and finds the checkpoint to go on from.
 *
 * @param say gets what is to be known: an earlier run that will be replaced, checkpoints that are not whole, where it begins
 * @throws ConfigError when the folder holds something else, or `resume` lies outside of it; UserError when another process
 *   trains into it, it cannot be written, or the checkpoint that was named is not whole
 */
export function claimRunFolder(outputDir: string, resume: Resume, say: (line: string) => void): ClaimedFolder {
  const { hasEarlierRun } = checkRunFolder(outputDir);
  const lock = lockRunFolder(outputDir);
  try {
    if (resume === false) {
      if (hasEarlierRun) say(`${outputDir}: replacing the earlier run`);
      return { lock, checkpoint: null };
    }
    const checkpoint = chooseCheckpoint(outputDir, resume, say);
    say(
      checkpoint
        ? `resuming from ${checkpoint.folder}: step ${checkpoint.state.step} of ${checkpoint.state.total_steps} is done`
        : `${outputDir}: no whole checkpoint to resume from; beginning at the first step`,
    );
    return { lock, checkpoint: checkpoint ?? null };
  } catch (error) {
    lock.release();
    throw error;
  }
}

/** The run folder that `train --resume DIR` means: DIR, or the one that DIR is a checkpoint of. */
export function runFolderOf(folder: string): string {
  return CHECKPOINT_FOLDER.test(basename(folder)) ? dirname(folder) : folder;
}

function chooseCheckpoint(
  outputDir: string,
  resume: string | true,
  say: (line: string) => void,
): Checkpoint | undefined {
  const isSame = (a: string, b: string) => existsSync(a) && existsSync(b) && realpathSync(a) === realpathSync(b);
  if (resume === true || isSame(resume, outputDir)) {
    return findCheckpoint(outputDir, (folder, fault) => say(`${folder} is passed over: ${fault}`));
  }
  if (!existsSync(resume))
    throw new ConfigError(`resume: there is no ${resume}; give a run folder, or a checkpoint in it.`);
  if (!isSame(join(resume, '..'), outputDir) || !CHECKPOINT_FOLDER.test(basename(resume))) {
    throw new ConfigError(
      `resume: ${resume} is neither trainer.output_dir, which is ${outputDir}, nor a checkpoint in it; set trainer.output_dir to the folder of the run that is to go on.`,
    );
  }
  const found = readCheckpoint(resume);
  if (!('fault' in found)) return found;
  throw new UserError(
    `${resume} is not whole: ${found.fault}. Name another checkpoint, or only ${outputDir} for its newest whole one.`,
  );
}
