// SPDX-License-Identifier: Apache-2.0
/** Writer of safetensors files: atomic, one tensor (or a part of it) in memory at a time, byte for byte as the reference library writes. */
import { writeFileAtomic, writeFully } from '../files.ts';
import { DTYPE_BYTES, float32ToBfloat16, float32ToFloat16 } from './dtypes.ts';

/** Dtypes this project writes. */
export type WritableDtype = 'F32' | 'BF16' | 'F16' | 'I32';

export type TensorValues = Float32Array | Int32Array;

/** A tensor whose values are asked for only when it is its turn to be written. */
export interface TensorToWrite {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: WritableDtype;
  /** Row-major: Int32Array for I32, Float32Array otherwise; whole, or in parts that follow each other. */
  readonly data: () => TensorValues | Iterable<TensorValues>;
}

/** The reference library sorts wider types first, so that every tensor is aligned; then by name. */
const DTYPE_ORDER: Readonly<Record<WritableDtype, number>> = { F32: 0, I32: 1, BF16: 2, F16: 3 };

/**
 * Writes `tensors` to `path` in place of what was there. BF16 and F16 round to nearest even.
 *
 * @param metadata string notes; transformers and peft want `{ format: 'pt' }`
 * @returns the bytes of all values (what a shard index calls total_size)
 * @throws UserError when the file cannot be written; RangeError when a tensor's values do not fit its shape or dtype
 */
export function writeSafetensors(
  path: string,
  tensors: Iterable<TensorToWrite>,
  metadata: Readonly<Record<string, string>> = {},
): number {
  const sorted = [...tensors].sort(
    (a, b) => DTYPE_ORDER[a.dtype] - DTYPE_ORDER[b.dtype] || Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)),
  );
  const header: [string, unknown][] = Object.keys(metadata).length > 0 ? [['__metadata__', metadata]] : [];
  const names = new Set<string>(['__metadata__']);
  let offset = 0;
  for (const { name, dtype, shape } of sorted) {
    if (names.has(name)) throw new RangeError(`two tensors to write have the name ${name}`);
    names.add(name);
    const end = offset + tensorBytes({ dtype, shape });
    header.push([name, { dtype, shape, data_offsets: [offset, end] }]);
    offset = end;
  }
  writeFileAtomic(path, (descriptor) => {
    writeFully(descriptor, encodeHeader(header));
    for (const tensor of sorted) for (const bytes of encodeTensor(tensor)) writeFully(descriptor, bytes);
  });
  return offset;
}

/** Bytes a tensor's values take in the file. */
export function tensorBytes({ dtype, shape }: Pick<TensorToWrite, 'dtype' | 'shape'>): number {
  return shape.reduce((product, size) => product * size, DTYPE_BYTES[dtype]);
}

/** Length, JSON, and spaces so that the data begins at a multiple of 8. */
function encodeHeader(items: readonly [string, unknown][]): Uint8Array {
  const members = items.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`);
  const json = Buffer.from(`{${members.join(',')}}`);
  const length = Math.ceil(json.length / 8) * 8;
  const bytes = Buffer.alloc(8 + length, ' ');
  bytes.writeBigUInt64LE(BigInt(length), 0);
  json.copy(bytes, 8);
  return bytes;
}

function* encodeTensor(tensor: TensorToWrite): Generator<Uint8Array> {
  const { name, dtype, shape } = tensor;
  const elements = shape.reduce((product, size) => product * size, 1);
  const wantsIntegers = dtype === 'I32';
  const data = tensor.data();
  let count = 0;
  for (const values of isTensorValues(data) ? [data] : data) {
    if (values instanceof Int32Array !== wantsIntegers) {
      throw new RangeError(`${name}: ${dtype} wants ${wantsIntegers ? 'an Int32Array' : 'a Float32Array'}`);
    }
    const encoded = values instanceof Int32Array ? values : encodeFloats(values, dtype);
    yield new Uint8Array(encoded.buffer, encoded.byteOffset, encoded.byteLength);
    count += values.length;
  }
  if (count !== elements) {
    throw new RangeError(`${name}: ${count} values for shape [${shape}], which takes ${elements}`);
  }
}

function isTensorValues(data: TensorValues | Iterable<TensorValues>): data is TensorValues {
  return data instanceof Float32Array || data instanceof Int32Array;
}

function encodeFloats(values: Float32Array, dtype: WritableDtype): Float32Array | Uint16Array {
  if (dtype === 'BF16') return float32ToBfloat16(values);
  return dtype === 'F16' ? float32ToFloat16(values) : values;
}
