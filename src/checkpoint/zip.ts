// SPDX-License-Identifier: Apache-2.0
/** The central directory of a zip archive of stored (not compressed) files, as torch.save writes; zip64 included. */
import { UserError } from '../errors.ts';
import type { RandomAccessFile } from './random_access_file.ts';

export interface ZipEntry {
  readonly name: string;
  readonly size: number;
  /** CRC-32 of the content, as the archive states it. */
  readonly crc32: number;
  /** Where the local header stands; `zipEntryStart` finds the content behind it. */
  readonly headerPosition: number;
}

const END_SIGNATURE = 0x06054b50;
const END64_SIGNATURE = 0x06064b50;
const END64_LOCATOR_SIGNATURE = 0x07064b50;
const CENTRAL_SIGNATURE = 0x02014b50;
const LOCAL_SIGNATURE = 0x04034b50;
const END_BYTES = 22;
const LOCATOR_BYTES = 20;
const MAX_COMMENT_BYTES = 65535;
const MAX_DIRECTORY_BYTES = 256 << 20;
const UINT32_MAX = 0xffffffff;

/**
 * Reads the list of files of a zip archive.
 * @throws UserError naming the byte when the archive is damaged, encrypted or compressed
 */
export function readZipEntries(file: RandomAccessFile): Map<string, ZipEntry> {
  const directory = findDirectory(file);
  if (directory.size > MAX_DIRECTORY_BYTES) {
    throw new UserError(`${file.path}: its list of files claims ${directory.size} bytes. The file is damaged.`);
  }
  const bytes = file.read(directory.position, directory.size, 'the list of files of the archive');
  const view = new DataView(bytes.buffer);
  const entries = new Map<string, ZipEntry>();
  let at = 0;
  while (at < bytes.length) {
    const { entry, next } = readCentralEntry(file, view, at, directory.position);
    if (entries.has(entry.name)) {
      throw new UserError(`${file.path}: the archive lists ${entry.name} twice. The file is damaged.`);
    }
    entries.set(entry.name, entry);
    at = next;
  }
  if (entries.size !== directory.count) {
    throw new UserError(
      `${file.path}: the archive says it has ${directory.count} files and lists ${entries.size}. The file is damaged.`,
    );
  }
  return entries;
}

/**
 * The position of an entry's first content byte.
 * @throws UserError when its local header is not where the archive says, or the content leaves the file
 */
export function zipEntryStart(file: RandomAccessFile, entry: ZipEntry): number {
  const view = new DataView(file.read(entry.headerPosition, 30, `the header of ${entry.name}`).buffer);
  if (view.getUint32(0, true) !== LOCAL_SIGNATURE) {
    throw new UserError(
      `${file.path}: no header of ${entry.name} at byte ${entry.headerPosition}, where the archive places it. The file is damaged.`,
    );
  }
  const start = entry.headerPosition + 30 + view.getUint16(26, true) + view.getUint16(28, true);
  if (start + entry.size > file.size) {
    throw new UserError(
      `${file.path}: ${entry.name} should be at bytes ${start} to ${start + entry.size}, but the file ends at byte ${file.size}. It is truncated: fetch it again.`,
    );
  }
  return start;
}

function findDirectory(file: RandomAccessFile): { position: number; size: number; count: number } {
  const tailBytes = Math.min(file.size, END_BYTES + MAX_COMMENT_BYTES);
  const tail = new DataView(file.read(file.size - tailBytes, tailBytes, 'the end of the archive').buffer);
  for (let at = tailBytes - END_BYTES; at >= 0; at--) {
    const isEnd =
      tail.getUint32(at, true) === END_SIGNATURE && at + END_BYTES + tail.getUint16(at + 20, true) === tailBytes;
    if (!isEnd) continue;
    const count = tail.getUint16(at + 10, true);
    const size = tail.getUint32(at + 12, true);
    const position = tail.getUint32(at + 16, true);
    const isZip64 = count === 0xffff || size === UINT32_MAX || position === UINT32_MAX;
    return isZip64 ? findDirectory64(file, file.size - tailBytes + at) : { position, size, count };
  }
  throw new UserError(`${file.path}: the archive has no end record. It is truncated: fetch it again.`);
}

function findDirectory64(file: RandomAccessFile, endPosition: number) {
  const locatorPosition = Math.max(0, endPosition - LOCATOR_BYTES);
  const locator = new DataView(file.read(locatorPosition, LOCATOR_BYTES, 'the zip64 locator').buffer);
  const recordPosition = Number(locator.getBigUint64(8, true));
  if (locator.getUint32(0, true) !== END64_LOCATOR_SIGNATURE) throw damagedZip64(file, locatorPosition);
  const record = new DataView(file.read(recordPosition, 56, 'the zip64 end record').buffer);
  if (record.getUint32(0, true) !== END64_SIGNATURE) throw damagedZip64(file, recordPosition);
  return {
    count: Number(record.getBigUint64(32, true)),
    size: Number(record.getBigUint64(40, true)),
    position: Number(record.getBigUint64(48, true)),
  };
}

function damagedZip64(file: RandomAccessFile, position: number): UserError {
  return new UserError(`${file.path}: no zip64 record at byte ${position}, where one must be. The file is damaged.`);
}

function readCentralEntry(file: RandomAccessFile, view: DataView, at: number, directoryPosition: number) {
  const damaged = () =>
    new UserError(
      `${file.path}: the archive's list of files is wrong at byte ${directoryPosition + at}. The file is damaged.`,
    );
  if (at + 46 > view.byteLength || view.getUint32(at, true) !== CENTRAL_SIGNATURE) throw damaged();
  const nameEnd = at + 46 + view.getUint16(at + 28, true);
  const extraEnd = nameEnd + view.getUint16(at + 30, true);
  const next = extraEnd + view.getUint16(at + 32, true);
  if (next > view.byteLength) throw damaged();
  const name = Buffer.from(view.buffer as ArrayBuffer, at + 46, nameEnd - at - 46).toString('utf8');
  if (view.getUint16(at + 8, true) & 1) throw new UserError(`${file.path}: ${name} in the archive is encrypted.`);
  if (view.getUint16(at + 10, true) !== 0) {
    throw new UserError(
      `${file.path}: ${name} in the archive is compressed, which torch.save never does. Expected a file written by torch.save.`,
    );
  }
  let storedSize = view.getUint32(at + 20, true);
  let size = view.getUint32(at + 24, true);
  let headerPosition = view.getUint32(at + 42, true);
  const wide = zip64Fields(view, nameEnd, extraEnd);
  // The zip64 field holds, in this order, only the numbers whose 32-bit place is full.
  const widen = (value: number): number => {
    if (value !== UINT32_MAX) return value;
    const replacement = wide.shift();
    if (replacement === undefined) throw damaged();
    return replacement;
  };
  size = widen(size);
  storedSize = widen(storedSize);
  headerPosition = widen(headerPosition);
  if (size !== storedSize) throw damaged();
  return { entry: { name, size, crc32: view.getUint32(at + 16, true), headerPosition }, next };
}

function zip64Fields(view: DataView, begin: number, end: number): number[] {
  for (let at = begin; at + 4 <= end; ) {
    const fieldEnd = Math.min(end, at + 4 + view.getUint16(at + 2, true));
    if (view.getUint16(at, true) === 1) {
      const fields: number[] = [];
      for (let field = at + 4; field + 8 <= fieldEnd; field += 8) fields.push(Number(view.getBigUint64(field, true)));
      return fields;
    }
    at = fieldEnd;
  }
  return [];
}
