// SPDX-License-Identifier: Apache-2.0
/** Makes torch.save files from literal pickle opcodes, well-formed or not. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { temporaryFolder } from './temporary_folder.ts';

type Part = Buffer | number[];

const short = (value: string): Part => [0x8c, Buffer.byteLength(value), ...Buffer.from(value)];
const integer = (value: number): Part => {
  const bytes = Buffer.alloc(5);
  bytes[0] = 0x4a;
  bytes.writeInt32LE(value, 1);
  return bytes;
};

/** The few pickle opcodes that tests combine. */
export const op = {
  string: short,
  integer,
  global: (module: string, name: string): Part => Buffer.from(`c${module}\n${name}\n`),
  tuple: (...items: Part[]): Part => Buffer.concat([[0x28], ...items, [0x74]].map((part) => Buffer.from(part))),
  call: (callee: Part, ...args: Part[]): Part =>
    Buffer.concat([callee, op.tuple(...args), [0x52]].map((part) => Buffer.from(part))),
  storage: (type: string, key: string, elements: number): Part =>
    Buffer.concat([
      Buffer.from(op.tuple(short('storage'), op.global('torch', type), short(key), short('cpu'), integer(elements))),
      Buffer.from([0x51]),
    ]),
  tensor: (storage: Part, offset: number, shape: number[], strides: number[]): Part =>
    op.call(
      op.global('torch._utils', '_rebuild_tensor_v2'),
      storage,
      integer(offset),
      op.tuple(...shape.map(integer)),
      op.tuple(...strides.map(integer)),
      [0x89],
      op.call(op.global('collections', 'OrderedDict')),
    ),
  dict: (items: Record<string, Part>): Part =>
    Buffer.concat(
      [[0x7d, 0x28], ...Object.entries(items).flatMap(([key, value]) => [short(key), value]), [0x75]].map((part) =>
        Buffer.from(part),
      ),
    ),
};

/** A protocol-2 pickle of one value. */
export function pickleOf(value: Part): Buffer {
  return Buffer.concat([Buffer.from([0x80, 2]), Buffer.from(value), Buffer.from([0x2e])]);
}

export interface ZipOptions {
  zip64?: boolean;
  /** Compression method written in the list of files. */
  method?: number;
}

/** A zip archive of stored files. */
export function zipOf(files: Record<string, Buffer>, { zip64 = false, method = 0 }: ZipOptions = {}): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  const add = (part: Buffer) => {
    parts.push(part);
    offset += part.length;
  };
  for (const [name, data] of Object.entries(files)) {
    const extra = zip64 ? zip64Extra(data.length, offset) : Buffer.alloc(0);
    directory.push(centralHeader(name, data, offset, extra, method));
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(Buffer.byteLength(name), 26);
    local.writeUInt16LE(5, 28);
    add(Buffer.concat([local, Buffer.from(name), Buffer.alloc(5)]));
    add(data);
  }
  const start = offset;
  const list = Buffer.concat(directory);
  add(list);
  if (zip64) add(zip64End(directory.length, list.length, start));
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(zip64 ? 0xffff : directory.length, 10);
  end.writeUInt32LE(zip64 ? 0xffffffff : list.length, 12);
  end.writeUInt32LE(zip64 ? 0xffffffff : start, 16);
  add(end);
  return Buffer.concat(parts);
}

function centralHeader(name: string, data: Buffer, offset: number, extra: Buffer, method: number): Buffer {
  const header = Buffer.alloc(46);
  header.writeUInt32LE(0x02014b50, 0);
  header.writeUInt16LE(method, 10);
  header.writeUInt32LE(crc32(data), 16);
  header.writeUInt32LE(extra.length > 0 ? 0xffffffff : data.length, 20);
  header.writeUInt32LE(extra.length > 0 ? 0xffffffff : data.length, 24);
  header.writeUInt16LE(Buffer.byteLength(name), 28);
  header.writeUInt16LE(extra.length, 30);
  header.writeUInt32LE(extra.length > 0 ? 0xffffffff : offset, 42);
  return Buffer.concat([header, Buffer.from(name), extra]);
}

function zip64Extra(size: number, offset: number): Buffer {
  const extra = Buffer.alloc(28);
  extra.writeUInt16LE(1, 0);
  extra.writeUInt16LE(24, 2);
  for (const [index, value] of [size, size, offset].entries()) extra.writeBigUInt64LE(BigInt(value), 4 + 8 * index);
  return extra;
}

function zip64End(count: number, size: number, start: number): Buffer {
  const record = Buffer.alloc(56 + 20);
  record.writeUInt32LE(0x06064b50, 0);
  for (const [index, value] of [count, size, start].entries()) record.writeBigUInt64LE(BigInt(value), 32 + 8 * index);
  record.writeUInt32LE(0x07064b50, 56);
  record.writeBigUInt64LE(BigInt(start + size), 64);
  return record;
}

/** Writes a torch.save file with this pickle and these storages; returns its path. */
export function torchFile(pickle: Buffer, storages: Record<string, Buffer> = {}, options: ZipOptions = {}): string {
  const files: Record<string, Buffer> = { 'archive/data.pkl': pickle, 'archive/byteorder': Buffer.from('little') };
  for (const [key, data] of Object.entries(storages)) files[`archive/data/${key}`] = data;
  return rawFile(zipOf(files, options));
}

/** Writes these bytes as pytorch_model.bin; returns its path. */
export function rawFile(bytes: Buffer): string {
  const path = join(temporaryFolder(), 'pytorch_model.bin');
  writeFileSync(path, bytes);
  return path;
}

export function float32Bytes(...values: number[]): Buffer {
  return Buffer.from(Float32Array.from(values).buffer);
}
