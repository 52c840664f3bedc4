// SPDX-License-Identifier: Apache-2.0
/** One process at a time trains into a folder; the lock of a dead one is taken over. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { lockRunFolder } from '../../trainer/lock.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

const lockOf = (folder: string) => join(folder, '.run.lock');
const write = (folder: string, holder: object) => writeFileSync(lockOf(folder), JSON.stringify(holder));

it('is held until it is released, and leaves nothing', () => {
  const folder = temporaryFolder();
  const lock = lockRunFolder(folder);
  expect(lock.isHeld()).toBe(true);
  expect(readdirSync(folder)).toEqual(['.run.lock']);
  expect(() => lockRunFolder(folder)).toThrow(
    `${folder}: process ${process.pid} trains into this folder. Wait for it or stop it, or choose another trainer.output_dir; if that process is surely gone, remove ${lockOf(folder)}.`,
  );
  lock.release();
  expect(readdirSync(folder)).toEqual([]);
  lockRunFolder(folder).release();
});

it('takes over from a process that is no more', async () => {
  const folder = temporaryFolder();
  const child = spawn(process.execPath, ['-e', '']);
  await once(child, 'exit');
  write(folder, { pid: child.pid, host: hostname(), process_start: null });
  const lock = lockRunFolder(folder);
  expect(lock.isHeld()).toBe(true);
  expect(JSON.parse(readFileSync(lockOf(folder), 'utf8'))).toMatchObject({ pid: process.pid });
  expect(readdirSync(folder)).toEqual(['.run.lock']);
});

it.runIf(process.platform === 'linux')('takes over from a process whose number another one has now', () => {
  const folder = temporaryFolder();
  write(folder, { pid: process.pid, host: hostname(), process_start: 'another boot:1' });
  expect(lockRunFolder(folder).isHeld()).toBe(true);
});

it('never takes over from another machine, nor a lock that it cannot read', () => {
  const folder = temporaryFolder();
  write(folder, { pid: 1, host: 'elsewhere' });
  expect(() => lockRunFolder(folder)).toThrow(`${folder}: process 1 on elsewhere trains into this folder.`);
  writeFileSync(lockOf(folder), '{');
  expect(() => lockRunFolder(folder)).toThrow(/another run holds this folder \(its lock .* cannot be read\)/);
});

it('knows when it is lost, and does not release what is another’s', () => {
  const folder = temporaryFolder();
  const lock = lockRunFolder(folder);
  rmSync(lockOf(folder));
  expect(lock.isHeld()).toBe(false);
  expect(() => lock.assertHeld()).toThrow(/was removed or taken by another process/);
  const other = lockRunFolder(folder);
  lock.release();
  expect(other.isHeld()).toBe(true);
});

it('says why a folder cannot be locked', () => {
  expect(() => lockRunFolder(join(temporaryFolder(), 'missing'))).toThrow(
    /cannot write .*\.run\.lock: the folder does not/,
  );
});
