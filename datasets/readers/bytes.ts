// SPDX-License-Identifier: Apache-2.0
/** The bytes of a file, unpacked when its name ends with .gz or .zst, and its lines and text. */
import { createReadStream, type ReadStream, statSync } from 'node:fs';
import { TextDecoder } from 'node:util';
import { createGunzip } from 'node:zlib';
import { Decompress } from 'fzstd';
import { UserError } from '../../src/errors.ts';
import { fileError } from '../../src/files.ts';
import { type DataFile, fileFault, MAX_LINE_BYTES } from './row.ts';
import { checkZstdHeader } from './zstd.ts';

const NEWLINE = 0x0a;
const CHUNK = 1 << 18;

/** @throws UserError when the file cannot be read, or is damaged as gzip or zstd */
export async function* readBytes(file: DataFile): AsyncGenerator<Uint8Array> {
  const lower = file.path.toLowerCase();
  const source = createReadStream(file.path, { highWaterMark: CHUNK });
  const size = file.onProgress ? (statSync(file.path, { throwIfNoEntry: false })?.size ?? 0) : 0;
  const bytes = lower.endsWith('.gz')
    ? gunzipped(file, source)
    : lower.endsWith('.zst')
      ? unzstd(file, source)
      : raw(file, source);
  for await (const chunk of bytes) {
    file.onProgress?.(source.bytesRead / Math.max(1, size));
    yield chunk;
  }
}

/** The name without .gz or .zst, in lower case. */
export function uncompressedName(path: string): string {
  return path.toLowerCase().replace(/\.(gz|zst)$/, '');
}

/** The lines of a file as bytes, without their newline, with their numbers from 1. */
export async function* readLines(file: DataFile): AsyncGenerator<{ bytes: Buffer; line: number }> {
  let pieces: Uint8Array[] = [];
  let pending = 0;
  let line = 1;
  const add = (piece: Uint8Array) => {
    pieces.push(piece);
    pending += piece.length;
    if (pending > MAX_LINE_BYTES) throw new UserError(`${file.name}:${line}: the line is longer than 64 MiB`);
  };
  for await (const chunk of readBytes(file)) {
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, start)) {
      add(chunk.subarray(start, end));
      yield { bytes: Buffer.concat(pieces), line };
      pieces = [];
      pending = 0;
      line += 1;
      start = end + 1;
    }
    if (start < chunk.length) add(chunk.subarray(start));
  }
  if (pending > 0) yield { bytes: Buffer.concat(pieces), line };
}

/** The file as UTF-8 text, piece by piece, without its byte order mark. */
export async function* readText(file: DataFile): AsyncGenerator<string> {
  const utf8 = new TextDecoder('utf-8', { fatal: true });
  const decode = (bytes: Uint8Array | undefined, isLast: boolean) => {
    try {
      return utf8.decode(bytes, { stream: !isLast });
    } catch {
      throw new UserError(`${file.name}: not UTF-8 text; save it as UTF-8`);
    }
  };
  for await (const chunk of readBytes(file)) yield decode(chunk, false);
  yield decode(undefined, true);
}

async function* raw(file: DataFile, source: AsyncIterable<Buffer>): AsyncGenerator<Uint8Array> {
  try {
    yield* source;
  } catch (error) {
    throw fileError(error, file.path, 'read');
  }
}

async function* gunzipped(file: DataFile, source: ReadStream): AsyncGenerator<Uint8Array> {
  const gunzip = createGunzip();
  source.on('error', (error) => gunzip.destroy(error));
  source.pipe(gunzip);
  try {
    yield* gunzip as AsyncIterable<Buffer>;
  } catch (error) {
    const isDamage = error instanceof Error && 'code' in error && String(error.code).startsWith('Z_');
    throw isDamage ? fileFault(file, 'damaged or incomplete gzip file', error) : fileError(error, file.path, 'read');
  }
}

async function* unzstd(file: DataFile, source: AsyncIterable<Buffer>): AsyncGenerator<Uint8Array> {
  let unpacked: Uint8Array[] = [];
  const decompress = new Decompress((chunk) => unpacked.push(chunk));
  let isFirst = true;
  const push = (chunk: Uint8Array, isLast: boolean) => {
    try {
      if (isFirst) checkZstdHeader(chunk);
      isFirst = false;
      decompress.push(chunk, isLast);
    } catch (error) {
      throw fileFault(file, 'damaged or incomplete zstd file', error);
    }
  };
  for await (const chunk of raw(file, source)) {
    push(chunk, false);
    yield* unpacked;
    unpacked = [];
  }
  push(new Uint8Array(), true);
  yield* unpacked;
}
