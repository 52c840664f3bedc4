// SPDX-License-Identifier: Apache-2.0
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { UserError } from '../src/errors.ts';
import { fileError, readJsonFile, readTextFile, replaceFolderAtomic, writeFileAtomic } from '../src/files.ts';
import { temporaryFolder } from './helpers/temporary_folder.ts';

/** Root may write anywhere, so the test steps down for its length. */
function actAsOrdinaryUser(): void {
  if (process.geteuid?.() !== 0) return;
  process.seteuid?.(65534);
  onTestFinished(() => process.seteuid?.(0));
}

test('writeFileAtomic makes the folder, replaces the file, leaves nothing else', () => {
  const folder = join(temporaryFolder(), 'a', 'b');
  const path = join(folder, 'file.txt');
  writeFileAtomic(path, 'one');
  writeFileAtomic(path, new Uint8Array([116, 119, 111]));
  expect(readFileSync(path, 'utf8')).toBe('two');
  writeFileAtomic(path, (descriptor) => {
    writeSync(descriptor, 'three');
  });
  expect(readFileSync(path, 'utf8')).toBe('three');
  expect(readdirSync(folder)).toEqual(['file.txt']);
});

test('a write that fails half-way leaves the old content and no temporary file', () => {
  const folder = temporaryFolder();
  const path = join(folder, 'file.txt');
  writeFileAtomic(path, 'old');
  const failing = () =>
    writeFileAtomic(path, (descriptor) => {
      writeSync(descriptor, 'ne');
      throw new Error('power cut');
    });
  expect(failing).toThrow('power cut');
  expect(readFileSync(path, 'utf8')).toBe('old');
  expect(readdirSync(folder)).toEqual(['file.txt']);
});

test('no write permission is told with the path and what to do', async () => {
  const folder = temporaryFolder();
  chmodSync(folder, 0o555);
  onTestFinished(() => chmodSync(folder, 0o755));
  actAsOrdinaryUser();
  const path = join(folder, 'file.txt');
  expect(() => writeFileAtomic(path, 'x')).toThrow(UserError);
  expect(() => writeFileAtomic(path, 'x')).toThrow(
    `cannot write ${path}: permission denied; choose a folder you may write to, or change its permissions (EACCES).`,
  );
  const inner = join(folder, 'out');
  await expect(replaceFolderAtomic(inner, () => {})).rejects.toThrow(`cannot write ${inner}: permission denied`);
});

test('a file where a folder should be', () => {
  const folder = temporaryFolder();
  writeFileSync(join(folder, 'file'), '');
  const path = join(folder, 'file', 'x.txt');
  expect(() => writeFileAtomic(path, 'x')).toThrow(/cannot write .*x\.txt: .*check the path \((ENOTDIR|EEXIST)\)/);
  expect(() => readTextFile(path)).toThrow('a part of this path is a file, not a folder; check the path (ENOTDIR).');
});

test.each([
  ['ENOSPC', 'no space is left on the disk; free some, or choose a folder on another one (ENOSPC).'],
  ['EROFS', 'the file system is read-only; choose a folder on another one (EROFS).'],
  ['ENOENT', 'the folder does not exist and could not be made; check the path (ENOENT).'],
])('%s says what to do', (code, advice) => {
  const error = Object.assign(new Error(code), { code });
  expect(fileError(error, '/x', 'write')).toEqual(new UserError(`cannot write /x: ${advice}`));
});

test('errors that are not about files pass through', () => {
  const error = new RangeError('x');
  expect(fileError(error, '/x', 'read')).toBe(error);
});

test('replaceFolderAtomic replaces the whole folder', async () => {
  const parent = temporaryFolder();
  const folder = join(parent, 'deep', 'out');
  await replaceFolderAtomic(folder, (temporary) => writeFileSync(join(temporary, 'old'), '1'));
  await replaceFolderAtomic(folder, async (temporary) => {
    mkdirSync(join(temporary, 'sub'));
    writeFileSync(join(temporary, 'sub', 'new'), '2');
  });
  expect(readdirSync(folder, { recursive: true }).sort()).toEqual(['sub', join('sub', 'new')]);
  expect(readdirSync(join(parent, 'deep'))).toEqual(['out']);
});

test('a folder writer that fails leaves the old folder and no temporary one', async () => {
  const parent = temporaryFolder();
  const folder = join(parent, 'out');
  await replaceFolderAtomic(folder, (temporary) => writeFileSync(join(temporary, 'old'), '1'));
  const failing = replaceFolderAtomic(folder, async (temporary) => {
    writeFileSync(join(temporary, 'half'), '');
    throw new Error('stop');
  });
  await expect(failing).rejects.toThrow('stop');
  expect(readdirSync(parent)).toEqual(['out']);
  expect(existsSync(join(folder, 'old'))).toBe(true);
});

test('reading errors name the file and the reason', () => {
  const folder = temporaryFolder();
  expect(() => readTextFile(join(folder, 'none'))).toThrow('there is no such file; check the path (ENOENT).');
  expect(() => readTextFile(folder)).toThrow('this is a folder, and a file was expected');
  writeFileSync(join(folder, 'latin1'), Buffer.from([0x61, 0xe9, 0x62]));
  expect(() => readTextFile(join(folder, 'latin1'))).toThrow('this is not UTF-8 text; save it as UTF-8.');
  writeFileSync(join(folder, 'list.json'), '[1]');
  expect(() => readJsonFile(join(folder, 'list.json'))).toThrow(
    'list.json:1:1: expected a JSON object, found an array.',
  );
});
