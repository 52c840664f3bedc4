// SPDX-License-Identifier: Apache-2.0
/** Reader of safetensors files. The header is checked in full at opening; values are read one tensor at a time. */
import { UserError } from '../errors.ts';
import { findJsonFault, isJsonObject } from '../json.ts';
import { DTYPE_BYTES, decodeFloat32, decodeInt32 } from './dtypes.ts';
import { openRandomAccessFile, type RandomAccessFile } from './random_access_file.ts';
import { byteRange, type Dtype, type RowRange, type TensorEntry, type TensorSource } from './tensor_source.ts';

/** Longest header the format allows, bytes. */
const MAX_HEADER_BYTES = 100_000_000;
/** Bytes before the header: its length. */
const PREFIX_BYTES = 8;

interface StoredTensor extends TensorEntry {
  /** Absolute byte range in the file. */
  readonly begin: number;
  readonly end: number;
}

interface Header {
  readonly tensors: Map<string, StoredTensor>;
  readonly metadata: Record<string, string>;
}

/**
 * Opens a safetensors file (format: github.com/huggingface/safetensors) and checks all of its header: sizes, dtypes,
 * and that the tensors fill the rest of the file without a gap or an overlap.
 *
 * @throws UserError naming the file, the byte and the tensor that is wrong
 */
export function openSafetensors(path: string): TensorSource {
  const file = openRandomAccessFile(path);
  let header: Header;
  try {
    header = readHeader(file);
  } catch (error) {
    file.close();
    throw error;
  }
  const readBytes = (name: string, rows?: RowRange): { tensor: StoredTensor; bytes: ArrayBuffer; where: string } => {
    const tensor = header.tensors.get(name);
    if (!tensor) throw new UserError(`${path}: there is no tensor ${name} in this file.`);
    const where = `${path}: tensor ${name}`;
    const [offset, length] = byteRange(tensor, rows);
    return { tensor, bytes: file.read(tensor.begin + offset, length, `tensor ${name}`).buffer, where };
  };
  return {
    path,
    entries: header.tensors,
    metadata: header.metadata,
    readFloat32(name, rows) {
      const { tensor, bytes, where } = readBytes(name, rows);
      return decodeFloat32(bytes, tensor.dtype, where);
    },
    readInt32(name) {
      const { tensor, bytes, where } = readBytes(name);
      return decodeInt32(bytes, tensor.dtype, where);
    },
    close: () => file.close(),
  };
}

function readHeader(file: RandomAccessFile): Header {
  const { path, size } = file;
  if (size < PREFIX_BYTES) {
    throw new UserError(
      `${path}: this is no safetensors file: it has ${size} bytes, and the length of its header alone takes ${PREFIX_BYTES}. Fetch it again.`,
    );
  }
  const prefix = file.read(0, PREFIX_BYTES, 'the header length');
  const length = new DataView(prefix.buffer).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw new UserError(
      `${path}: bytes 0 to 8 give a header of ${length} bytes, and safetensors allows ${MAX_HEADER_BYTES}. This is no safetensors file, or it is damaged.`,
    );
  }
  const headerEnd = PREFIX_BYTES + Number(length);
  if (headerEnd > size) {
    throw new UserError(
      `${path}: the header should end at byte ${headerEnd}, but the file ends at byte ${size}. It is truncated: fetch it again.`,
    );
  }
  const bytes = file.read(PREFIX_BYTES, Number(length), 'the header');
  if (bytes[0] !== 0x7b) {
    throw new UserError(
      `${path}: byte 8 should be the "{" that opens the header; found ${bytes.length === 0 ? 'an empty header' : `0x${(bytes[0] ?? 0).toString(16).padStart(2, '0')}`}. This is no safetensors file.`,
    );
  }
  return parseHeader(path, bytes, headerEnd, size);
}

function parseHeader(path: string, bytes: Uint8Array, dataStart: number, fileSize: number): Header {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new UserError(`${path}: the header (bytes 8 to ${dataStart}) is not UTF-8 text. The file is damaged.`);
  }
  const fault = findJsonFault(text);
  if (fault) {
    const byte = PREFIX_BYTES + Buffer.byteLength(text.slice(0, fault.offset));
    throw new UserError(`${path}: the header is wrong at byte ${byte}: ${fault.message}. The file is damaged.`);
  }
  // findJsonFault has seen a "{", so this is an object; a Map keeps names like "__proto__" plain names.
  const items = new Map(Object.entries(JSON.parse(text) as Record<string, unknown>));
  const metadata = parseMetadata(path, items.get('__metadata__'));
  items.delete('__metadata__');

  const tensors = new Map<string, StoredTensor>();
  for (const [name, item] of items) tensors.set(name, parseTensor(path, name, item, dataStart, fileSize));
  checkLayout(path, tensors, dataStart, fileSize);
  return { tensors, metadata };
}

function parseMetadata(path: string, value: unknown): Record<string, string> {
  if (value === undefined) return {};
  if (!isJsonObject(value)) throw new UserError(`${path}: __metadata__ in the header should be an object of strings.`);
  const metadata: Record<string, string> = {};
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') {
      throw new UserError(
        `${path}: __metadata__.${key} in the header should be a string; found ${JSON.stringify(text)}.`,
      );
    }
    metadata[key] = text;
  }
  return metadata;
}

function parseTensor(path: string, name: string, item: unknown, dataStart: number, fileSize: number): StoredTensor {
  const where = `${path}: tensor ${name}`;
  if (!isJsonObject(item)) {
    throw new UserError(`${where}: its header entry should be an object with dtype, shape and data_offsets.`);
  }
  const { dtype, shape, data_offsets: offsets } = item;
  if (!isDtype(dtype)) {
    throw new UserError(
      `${where}: dtype ${JSON.stringify(dtype)} is not one of ${Object.keys(DTYPE_BYTES).join(', ')}.`,
    );
  }
  if (!isSizeList(shape)) {
    throw new UserError(`${where}: shape ${JSON.stringify(shape)} should be a list of whole numbers from 0.`);
  }
  if (!isSizeList(offsets) || offsets.length !== 2) {
    throw new UserError(`${where}: data_offsets ${JSON.stringify(offsets)} should be two whole numbers from 0.`);
  }
  const [relativeBegin = 0, relativeEnd = 0] = offsets;
  if (relativeBegin > relativeEnd) {
    throw new UserError(`${where}: data_offsets [${offsets}] end before they begin.`);
  }
  const byteLength = shape.reduce((product, size) => product * size, DTYPE_BYTES[dtype]);
  if (byteLength !== relativeEnd - relativeBegin) {
    throw new UserError(
      `${where}: ${dtype} [${shape}] takes ${byteLength} bytes, but data_offsets [${offsets}] hold ${relativeEnd - relativeBegin}.`,
    );
  }
  const begin = dataStart + relativeBegin;
  const end = dataStart + relativeEnd;
  if (end > fileSize) {
    throw new UserError(
      `${where} should be at bytes ${begin} to ${end}, but the file ends at byte ${fileSize}. It is truncated: fetch it again.`,
    );
  }
  return { name, dtype, shape, byteLength, begin, end };
}

/** The data must fill the file from the header to its end: no two tensors share a byte, no byte belongs to none. */
function checkLayout(
  path: string,
  tensors: ReadonlyMap<string, StoredTensor>,
  dataStart: number,
  fileSize: number,
): void {
  const inOrder = [...tensors.values()].sort((a, b) => a.begin - b.begin || a.end - b.end);
  let previousEnd = dataStart;
  let previous = 'the header';
  for (const { name, begin, end } of inOrder) {
    if (begin < previousEnd) {
      throw new UserError(
        `${path}: tensor ${name} begins at byte ${begin}, inside ${previous}, which ends at byte ${previousEnd}: they overlap. The file is damaged.`,
      );
    }
    if (begin > previousEnd) {
      throw new UserError(
        `${path}: bytes ${previousEnd} to ${begin}, between ${previous} and tensor ${name}, belong to no tensor. The file is damaged.`,
      );
    }
    previousEnd = end;
    previous = `tensor ${name}`;
  }
  if (previousEnd !== fileSize) {
    throw new UserError(
      `${path}: bytes ${previousEnd} to ${fileSize}, after ${previous}, belong to no tensor. The file is damaged.`,
    );
  }
}

function isDtype(value: unknown): value is Dtype {
  return typeof value === 'string' && Object.hasOwn(DTYPE_BYTES, value);
}

function isSizeList(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}
