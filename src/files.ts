// SPDX-License-Identifier: Apache-2.0
/** Reading and writing files so that nothing is ever left half-written, with errors a person can act on. */
import { createHash, randomBytes } from 'node:crypto';
import {
  closeSync,
  createReadStream,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { messageOf, UserError } from './errors.ts';
import { isJsonObject, parseJson } from './json.ts';

const WRITE_ADVICE: Record<string, string> = {
  EACCES: 'permission denied; choose a folder you may write to, or change its permissions',
  EPERM: 'operation not permitted; choose a folder you may write to, or change its permissions',
  EROFS: 'the file system is read-only; choose a folder on another one',
  ENOSPC: 'no space is left on the disk; free some, or choose a folder on another one',
  EDQUOT: 'your disk quota is used up; free some space, or choose a folder on another disk',
  ENOENT: 'the folder does not exist and could not be made; check the path',
  ENOTDIR: 'a part of this path is a file, not a folder; check the path',
  EEXIST: 'a file stands where a folder is needed; check the path',
  EISDIR: 'a folder has this name; choose another name, or move the folder away',
  EFBIG: 'the file would be larger than this process may write (ulimit -f); raise that limit',
};

const READ_ADVICE: Record<string, string> = {
  EACCES: 'permission denied; make the file readable for this user',
  EPERM: 'operation not permitted; make the file readable for this user',
  ENOENT: 'there is no such file; check the path',
  ENOTDIR: 'a part of this path is a file, not a folder; check the path',
  EISDIR: 'this is a folder, and a file was expected; check the path',
};

/**
 * The UserError for a failed file operation: path, reason, what to do. An error that is already a UserError, or is no
 * file system error, comes back as it is.
 */
export function fileError(error: unknown, path: string, action: 'read' | 'write'): unknown {
  if (error instanceof UserError || !(error instanceof Error) || !('code' in error)) return error;
  const code = String(error.code);
  const advice = (action === 'read' ? READ_ADVICE : WRITE_ADVICE)[code] ?? messageOf(error);
  return new UserError(`cannot ${action} ${path}: ${advice} (${code}).`, { cause: error });
}

/**
 * The text of a UTF-8 file.
 * @throws UserError when it cannot be read or is not UTF-8, with the path and the reason
 */
export function readTextFile(path: string): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw fileError(error, path, 'read');
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new UserError(`${path}: this is not UTF-8 text; save it as UTF-8.`);
  }
}

/**
 * The JSON object in a file.
 * @throws UserError naming file, line and column when it cannot be read, is not JSON, or holds something else
 */
export function readJsonFile(path: string): Record<string, unknown> {
  const value = parseJson(readTextFile(path), path);
  if (!isJsonObject(value)) {
    throw new UserError(
      `${path}:1:1: expected a JSON object, found ${Array.isArray(value) ? 'an array' : typeof value}.`,
    );
  }
  return value;
}

/** Writes all of `bytes` at the descriptor's position. */
export function writeFully(descriptor: number, bytes: Uint8Array): void {
  for (let offset = 0; offset < bytes.byteLength; ) {
    offset += writeSync(descriptor, bytes, offset, bytes.byteLength - offset);
  }
}

/**
 * Writes a file under a temporary name beside it, syncs it to the disk and renames it into place: whoever opens `path`
 * sees the old content or the new, never a part. Missing parent folders are made.
 *
 * @param data the content, or a function that writes it to the descriptor it gets
 * @throws UserError when the place cannot be written; the temporary file is gone then
 */
export function writeFileAtomic(path: string, data: string | Uint8Array | ((descriptor: number) => void)): void {
  const temporary = temporaryName(path);
  try {
    mkdirSync(dirname(path), { recursive: true });
    const descriptor = openSync(temporary, 'wx', 0o666);
    try {
      if (typeof data === 'function') data(descriptor);
      else writeFully(descriptor, typeof data === 'string' ? Buffer.from(data) : data);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    renameSync(temporary, path);
    syncFolder(dirname(path));
  } catch (error) {
    removeQuietly(temporary);
    throw fileError(error, path, 'write');
  }
}

/**
 * Writes a whole folder under a temporary name beside it, syncs every file, and renames it into place. What `folder`
 * held before is replaced; when anything fails it stays as it was, and the temporary folder is gone.
 *
 * @param writer fills the (existing, empty) folder whose path it gets
 * @throws UserError when the place cannot be written, or what `writer` throws
 */
export async function replaceFolderAtomic(
  folder: string,
  writer: (temporaryFolder: string) => Promise<void> | void,
): Promise<void> {
  const temporary = temporaryName(folder);
  const replaced = temporaryName(folder);
  try {
    mkdirSync(dirname(resolve(folder)), { recursive: true });
    mkdirSync(temporary);
    await writer(temporary);
    syncTree(temporary);
    if (existsSync(folder)) renameSync(folder, replaced);
    try {
      renameSync(temporary, folder);
    } catch (error) {
      if (existsSync(replaced)) renameSync(replaced, folder);
      throw error;
    }
    syncFolder(dirname(resolve(folder)));
  } catch (error) {
    removeQuietly(temporary);
    throw fileError(error, folder, 'write');
  }
  removeQuietly(replaced);
}

/** Files of models and adapters: what says which weights they are. */
const HASHED_FILES = /^(config|adapter_config|tokenizer)\.json$|\.(safetensors|bin)$/;
/** The Hub's cache stores large files under their own hash. */
const BLOB_NAME = /^[0-9a-f]{64}$/;

/**
 * SHA-256 of the weights, configs and tokenizer in a folder, by their names.
 * @throws UserError when one cannot be read
 */
export async function hashFolder(folder: string): Promise<Record<string, string>> {
  const hashes: Record<string, string> = {};
  for (const name of readdirSync(folder).sort()) {
    if (HASHED_FILES.test(name)) hashes[name] = await hashFile(join(folder, name));
  }
  return hashes;
}

/**
 * The SHA-256 of a file's content, in hexadecimal.
 * @throws UserError when it cannot be read
 */
export async function hashFile(path: string): Promise<string> {
  const blob = basename(realpathSync(path));
  if (BLOB_NAME.test(blob)) return blob;
  const hash = createHash('sha256');
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  } catch (error) {
    throw fileError(error, path, 'read');
  }
  return hash.digest('hex');
}

/**
 * Deletes a folder: it is renamed away first, so that whoever looks for it finds all of it or nothing.
 * @throws UserError when it cannot be deleted
 */
export function removeFolderAtomic(folder: string): void {
  const temporary = temporaryName(folder);
  try {
    renameSync(folder, temporary);
    rmSync(temporary, { recursive: true, force: true });
  } catch (error) {
    throw fileError(error, folder, 'write');
  }
}

/** Names of files and folders that are being written, or were when their process was stopped. */
export const TEMPORARY_NAME = /^\..+\.[0-9a-f]{12}\.tmp$/;

function temporaryName(path: string): string {
  const absolute = resolve(path);
  return join(dirname(absolute), `.${basename(absolute)}.${randomBytes(6).toString('hex')}.tmp`);
}

function syncTree(folder: string): void {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) syncTree(path);
    else if (entry.isFile()) syncPath(path, 'r+');
  }
  syncFolder(folder);
}

/** Makes a rename durable. Windows cannot open a folder for this and does not need to. */
function syncFolder(folder: string): void {
  if (process.platform !== 'win32') syncPath(folder, 'r');
}

function syncPath(path: string, flags: string): void {
  const descriptor = openSync(path, flags);
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

function removeQuietly(path: string): void {
  try {
    rmSync(path, { recursive: true, force: true });
  } catch {
    // The error that led here is the one to report; a leftover temporary name harms nobody.
  }
}
