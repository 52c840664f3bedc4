// SPDX-License-Identifier: Apache-2.0
/** The lock of a run folder: one process trains into it at a time. */
import { randomBytes } from 'node:crypto';
import {
  copyFileSync,
  constants as fsConstants,
  linkSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { UserError } from '../src/errors.ts';
import { fileError } from '../src/files.ts';

const LOCK_FILE = '.run.lock';

export interface RunLock {
  /** Whether the folder is still there and this process's. */
  isHeld(): boolean;
  /** @throws UserError when it is not */
  assertHeld(): void;
  release(): void;
}

/** Who holds a lock. */
interface Holder {
  pid: number;
  host: string;
  /** When the process began, by a clock that no one sets: tells it from a later one with its number. null: not known here. */
  process_start: string | null;
  /** Tells two locks of one process apart. */
  nonce: string;
}

/**
 * Locks an existing folder. The lock of a process of this machine that is no more is taken over.
 * @throws UserError naming the process that holds it, or when the folder cannot be written
 */
export function lockRunFolder(folder: string): RunLock {
  const path = join(folder, LOCK_FILE);
  const holder: Holder = {
    pid: process.pid,
    host: hostname(),
    process_start: processStart(process.pid),
    nonce: randomBytes(8).toString('hex'),
  };
  const content = `${JSON.stringify(holder)}\n`;
  while (!createWhole(path, content)) takeStaleAway(folder, path);
  const isHeld = () => readIfThere(path) === content;
  return {
    isHeld,
    assertHeld: () => {
      if (isHeld()) return;
      throw new UserError(
        `${folder}: the folder, or its lock ${LOCK_FILE}, was removed or taken by another process while this run trained into it; stopped, and nothing more is written there.`,
      );
    },
    release: () => {
      if (isHeld()) rmSync(path, { force: true });
    },
  };
}

/** Creates a file with its content, or neither. @returns false when there is one already */
function createWhole(path: string, content: string): boolean {
  const temporary = `${path}.${randomBytes(6).toString('hex')}`;
  try {
    writeFileSync(temporary, content, { flag: 'wx' });
    try {
      linkSync(temporary, path);
    } catch (error) {
      if (codeOf(error) === 'EEXIST') throw error;
      // A file system without hard links.
      copyFileSync(temporary, path, fsConstants.COPYFILE_EXCL);
    }
    return true;
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false;
    throw fileError(error, path, 'write');
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** Removes the lock of a process that is no more. @throws UserError when it lives, or may live on another machine */
function takeStaleAway(folder: string, path: string): void {
  const content = readIfThere(path);
  if (content === undefined) return;
  const holder = parseHolder(content);
  const how = `Wait for it or stop it, or choose another trainer.output_dir; if that process is surely gone, remove ${path}.`;
  if (!holder)
    throw new UserError(`${folder}: another run holds this folder (its lock ${path} cannot be read). ${how}`);
  if (holder.host !== hostname()) {
    throw new UserError(`${folder}: process ${holder.pid} on ${holder.host} trains into this folder. ${how}`);
  }
  if (isAlive(holder)) throw new UserError(`${folder}: process ${holder.pid} trains into this folder. ${how}`);
  const aside = `${path}.${randomBytes(6).toString('hex')}`;
  try {
    renameSync(path, aside);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return;
    throw fileError(error, path, 'write');
  }
  // Another process may have replaced the stale lock by its own since it was read.
  if (readIfThere(aside) === content) rmSync(aside, { force: true });
  else renameSync(aside, path);
}

function parseHolder(content: string): Holder | undefined {
  try {
    const holder = JSON.parse(content) as Partial<Holder> | null;
    const isWhole = Number.isInteger(holder?.pid) && typeof holder?.host === 'string';
    return isWhole ? (holder as Holder) : undefined;
  } catch {
    return undefined;
  }
}

function isAlive({ pid, process_start: start }: Holder): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return codeOf(error) !== 'ESRCH';
  }
  const now = processStart(pid);
  return start === null || now === null || start === now;
}

/** Boot and clock tick at which a process began (Linux); null where that cannot be asked. */
function processStart(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The second field is a name in parentheses, which may hold anything; the start is the 22nd.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    return `${boot}:${fields[19]}`;
  } catch {
    return null;
  }
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined;
}
