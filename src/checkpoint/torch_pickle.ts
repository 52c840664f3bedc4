// SPDX-License-Identifier: Apache-2.0
/** Reader of torch.save files (`pytorch_model.bin`) that runs no code from the file. */
import { crc32 } from 'node:zlib';
import { UserError } from '../errors.ts';
import { DTYPE_BYTES, decodeFloat32, decodeInt32 } from './dtypes.ts';
import { PickleGlobal, PickleObject, type PickleValue, readPickle } from './pickle.ts';
import { openRandomAccessFile, type RandomAccessFile } from './random_access_file.ts';
import type { Dtype, RowRange, TensorEntry, TensorSource } from './tensor_source.ts';
import { readZipEntries, type ZipEntry, zipEntryStart } from './zip.ts';

const MAX_PICKLE_BYTES = 256 << 20;

const STORAGE_DTYPES: Readonly<Record<string, Dtype>> = {
  'torch.FloatStorage': 'F32',
  'torch.DoubleStorage': 'F64',
  'torch.HalfStorage': 'F16',
  'torch.BFloat16Storage': 'BF16',
  'torch.LongStorage': 'I64',
  'torch.IntStorage': 'I32',
  'torch.ShortStorage': 'I16',
  'torch.CharStorage': 'I8',
  'torch.ByteStorage': 'U8',
  'torch.BoolStorage': 'BOOL',
};

const ALLOWED_GLOBALS: ReadonlySet<string> = new Set([
  ...Object.keys(STORAGE_DTYPES),
  'torch._utils._rebuild_tensor_v2',
  'torch._utils._rebuild_parameter',
  'collections.OrderedDict',
]);

class Storage extends PickleObject {
  readonly entry: ZipEntry;
  readonly dtype: Dtype;
  readonly elements: number;
  constructor(entry: ZipEntry, dtype: Dtype, elements: number) {
    super();
    this.entry = entry;
    this.dtype = dtype;
    this.elements = elements;
  }
}

/** A view of a storage: offset and strides in elements. */
class StridedTensor extends PickleObject {
  readonly storage: Storage;
  readonly offset: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
  constructor(storage: Storage, offset: number, shape: readonly number[], strides: readonly number[]) {
    super();
    this.storage = storage;
    this.offset = offset;
    this.shape = shape;
    this.strides = strides;
  }
}

/**
 * Opens a state dict written by torch.save (torch 1.6 or newer: a zip archive with a pickle in it). Views, transposed
 * tensors and shared storages are handled; a name that is the same tensor as an earlier one says so in `aliasOf`.
 *
 * @throws UserError when the file is damaged, is no such archive, or its pickle asks for any class but tensors'
 */
export function openTorchPickle(path: string): TensorSource {
  const file = openRandomAccessFile(path);
  try {
    return openArchive(file);
  } catch (error) {
    file.close();
    throw error;
  }
}

function openArchive(file: RandomAccessFile): TensorSource {
  const { path } = file;
  checkMagic(file);
  const archive = readZipEntries(file);
  const pickleName = [...archive.keys()].find((name) => /^[^/]+\/data\.pkl$/.test(name));
  const pickleEntry = pickleName === undefined ? undefined : archive.get(pickleName);
  if (!pickleEntry) {
    throw new UserError(`${path}: the archive holds no data.pkl. Expected a file written by torch.save.`);
  }
  const root = pickleEntry.name.slice(0, -'data.pkl'.length);
  checkByteOrder(file, archive.get(`${root}byteorder`));
  const tensors = readStateDict(path, readPickleBytes(file, pickleEntry), root, archive);
  const entries = listEntries(tensors);

  const readBytes = (name: string, rows?: RowRange): { dtype: Dtype; bytes: ArrayBuffer; where: string } => {
    const tensor = tensors.get(name);
    if (!tensor) throw new UserError(`${path}: there is no tensor ${name} in this file.`);
    const where = `${path}: tensor ${name}`;
    return { dtype: tensor.storage.dtype, bytes: readTensor(file, rowsOf(tensor, rows), name), where };
  };
  return {
    path,
    entries,
    metadata: {},
    readFloat32(name, rows) {
      const { bytes, dtype, where } = readBytes(name, rows);
      return decodeFloat32(bytes, dtype, where);
    },
    readInt32(name) {
      const { bytes, dtype, where } = readBytes(name);
      return decodeInt32(bytes, dtype, where);
    },
    close: () => file.close(),
  };
}

function checkMagic(file: RandomAccessFile): void {
  const start = file.read(0, Math.min(4, file.size), 'the first bytes');
  if (start[0] === 0x50 && start[1] === 0x4b) return;
  if (start[0] === 0x80) {
    throw new UserError(
      `${file.path}: this is a pickle without an archive around it, torch's format before version 1.6. Load and save it once with a newer torch (torch.save(torch.load(path), path)), or use a safetensors copy of the model.`,
    );
  }
  throw new UserError(
    `${file.path}: this is no file written by torch.save: it begins with ${Buffer.from(start).toString('hex') || 'nothing'}, not with a zip archive's 504b0304.`,
  );
}

function checkByteOrder(file: RandomAccessFile, entry: ZipEntry | undefined): void {
  if (!entry) return;
  const order = Buffer.from(file.read(zipEntryStart(file, entry), Math.min(entry.size, 16), entry.name)).toString();
  if (order !== 'little')
    throw new UserError(`${file.path}: its byte order is ${JSON.stringify(order)}; only "little" can be read.`);
}

function readPickleBytes(file: RandomAccessFile, entry: ZipEntry): Uint8Array {
  if (entry.size > MAX_PICKLE_BYTES) {
    throw new UserError(
      `${file.path}: ${entry.name} has ${entry.size} bytes; a list of tensors stays under ${MAX_PICKLE_BYTES}.`,
    );
  }
  const bytes = file.read(zipEntryStart(file, entry), entry.size, entry.name);
  if (crc32(bytes) !== entry.crc32) {
    throw new UserError(`${file.path}: the checksum of ${entry.name} is wrong. The file is damaged: fetch it again.`);
  }
  return bytes;
}

function readStateDict(
  path: string,
  pickle: Uint8Array,
  root: string,
  archive: ReadonlyMap<string, ZipEntry>,
): Map<string, StridedTensor> {
  const value = readPickle(pickle, {
    where: path,
    allowedGlobals: ALLOWED_GLOBALS,
    reduce: (global, args) => construct(path, global, args),
    persistentLoad: (id) => findStorage(path, root, archive, id),
  });
  if (!(value instanceof Map)) throw new UserError(`${path}: expected a dictionary of tensors in this file.`);
  const tensors = new Map<string, StridedTensor>();
  for (const [name, tensor] of value) {
    if (typeof name !== 'string' || !(tensor instanceof StridedTensor)) {
      throw new UserError(
        `${path}: ${JSON.stringify(name)} in the dictionary is no tensor. Expected a state dict (torch.save(model.state_dict(), path)).`,
      );
    }
    tensors.set(name, tensor);
  }
  return tensors;
}

function construct(path: string, global: PickleGlobal, args: PickleValue[]): PickleValue {
  const wrong = () =>
    new UserError(`${path}: the pickle calls ${global.name} with arguments it does not take. The file is damaged.`);
  switch (global.name) {
    case 'collections.OrderedDict':
      return orderedDict(args[0] ?? [], wrong);
    case 'torch._utils._rebuild_parameter':
      return args[0] ?? null;
    case 'torch._utils._rebuild_tensor_v2': {
      const [storage, offset, shape, strides] = args;
      if (!(storage instanceof Storage) || !isSize(offset) || !isSizeList(shape) || !isSizeList(strides)) throw wrong();
      return stridedTensor(path, new StridedTensor(storage, offset, shape, strides), wrong);
    }
    default:
      throw wrong();
  }
}

function orderedDict(pairs: PickleValue, wrong: () => UserError): PickleValue {
  if (!Array.isArray(pairs)) throw wrong();
  const dict = new Map<PickleValue, PickleValue>();
  for (const pair of pairs) {
    if (!Array.isArray(pair) || pair.length !== 2) throw wrong();
    dict.set(pair[0] as PickleValue, pair[1] as PickleValue);
  }
  return dict;
}

function stridedTensor(path: string, tensor: StridedTensor, wrong: () => UserError): StridedTensor {
  const { storage, offset, shape, strides } = tensor;
  if (shape.length !== strides.length) throw wrong();
  const count = elementCount(shape);
  const last = shape.reduce((sum, size, axis) => sum + (size - 1) * (strides[axis] ?? 0), offset);
  if (count > storage.elements || (count > 0 && last >= storage.elements)) {
    throw new UserError(
      `${path}: a tensor of shape [${shape}], strides [${strides}] and offset ${offset} does not fit its storage of ${storage.elements} elements (${storage.entry.name}). The file is damaged.`,
    );
  }
  return tensor;
}

function findStorage(path: string, root: string, archive: ReadonlyMap<string, ZipEntry>, id: PickleValue): Storage {
  const [kind, type, key, , elements] = Array.isArray(id) ? id : [];
  const dtype = type instanceof PickleGlobal ? STORAGE_DTYPES[type.name] : undefined;
  if (kind !== 'storage' || dtype === undefined || typeof key !== 'string' || !isSize(elements)) {
    throw new UserError(
      `${path}: the pickle refers to a storage in a form torch.save does not write. The file is damaged.`,
    );
  }
  const entry = archive.get(`${root}data/${key}`);
  if (!entry)
    throw new UserError(
      `${path}: ${root}data/${key}, which a tensor needs, is not in the archive. The file is damaged.`,
    );
  if (elements * DTYPE_BYTES[dtype] !== entry.size) {
    throw new UserError(
      `${path}: ${entry.name} should hold ${elements} ${dtype} elements (${elements * DTYPE_BYTES[dtype]} bytes), but has ${entry.size} bytes. The file is damaged.`,
    );
  }
  return new Storage(entry, dtype, elements);
}

function listEntries(tensors: ReadonlyMap<string, StridedTensor>): Map<string, TensorEntry> {
  const entries = new Map<string, TensorEntry>();
  const firstNames = new Map<string, string>();
  for (const [name, { storage, offset, shape, strides }] of tensors) {
    const identity = JSON.stringify([storage.entry.name, storage.dtype, offset, shape, strides]);
    const aliasOf = firstNames.get(identity);
    if (aliasOf === undefined) firstNames.set(identity, name);
    const byteLength = elementCount(shape) * DTYPE_BYTES[storage.dtype];
    entries.set(name, { name, dtype: storage.dtype, shape, byteLength, aliasOf });
  }
  return entries;
}

function rowsOf(tensor: StridedTensor, rows: RowRange | undefined): StridedTensor {
  if (!rows) return tensor;
  const { storage, offset, shape, strides } = tensor;
  const [total = 0, ...rest] = shape;
  if (rows.start < 0 || rows.count < 0 || rows.start + rows.count > total) {
    throw new RangeError(`the tensor has ${total} rows; asked for ${rows.count} from ${rows.start}`);
  }
  return new StridedTensor(storage, offset + rows.start * (strides[0] ?? 0), [rows.count, ...rest], strides);
}

/** The tensor's elements in row-major order. */
function readTensor(file: RandomAccessFile, tensor: StridedTensor, name: string): ArrayBuffer {
  const { storage, offset, shape, strides } = tensor;
  const width = DTYPE_BYTES[storage.dtype];
  const count = elementCount(shape);
  const start = zipEntryStart(file, storage.entry);
  if (isContiguous(shape, strides)) return file.read(start + offset * width, count * width, `tensor ${name}`).buffer;

  const stored = file.read(start, storage.elements * width, `tensor ${name}`);
  const out = new Uint8Array(count * width);
  const index = shape.map(() => 0);
  let position = offset;
  for (let element = 0; element < count; element++) {
    out.set(stored.subarray(position * width, (position + 1) * width), element * width);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const next = (index[axis] ?? 0) + 1;
      position += strides[axis] ?? 0;
      index[axis] = next;
      if (next < (shape[axis] ?? 0)) break;
      position -= next * (strides[axis] ?? 0);
      index[axis] = 0;
    }
  }
  return out.buffer;
}

function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  let expected = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const size = shape[axis] ?? 0;
    if (size !== 1 && strides[axis] !== expected) return false;
    expected *= size;
  }
  return true;
}

function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

function isSize(value: PickleValue | undefined): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function isSizeList(value: PickleValue | undefined): value is number[] {
  return Array.isArray(value) && value.every(isSize);
}
