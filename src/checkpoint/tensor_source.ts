// SPDX-License-Identifier: Apache-2.0
/** What every checkpoint reader offers: the list of tensors at once, their values one tensor at a time. */

/** Element types of checkpoint files, in safetensors' names. */
export type Dtype =
  | 'BOOL'
  | 'U8'
  | 'I8'
  | 'F8_E5M2'
  | 'F8_E4M3'
  | 'I16'
  | 'U16'
  | 'F16'
  | 'BF16'
  | 'I32'
  | 'U32'
  | 'F32'
  | 'F64'
  | 'I64'
  | 'U64';

export interface TensorEntry {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Bytes of the values in the file's dtype. */
  readonly byteLength: number;
  /** The earlier entry that is this very tensor (torch files store tied weights once). */
  readonly aliasOf?: string;
}

/** Consecutive rows of a tensor: positions of its first axis. */
export interface RowRange {
  readonly start: number;
  readonly count: number;
}

/** An open checkpoint. The readers convert; the file keeps its dtype. */
export interface TensorSource {
  /** The file, or the folder of the shards. */
  readonly path: string;
  readonly entries: ReadonlyMap<string, TensorEntry>;
  /** The file's own key-value notes (safetensors' `__metadata__`). */
  readonly metadata: Readonly<Record<string, string>>;
  /**
   * The values of an F32, BF16, F16 or F64 tensor, row-major, in fresh memory.
   * @param rows which rows of its first axis; default all
   * @throws UserError when there is no such tensor, its dtype is another, or the file ends too early
   */
  readFloat32(name: string, rows?: RowRange): Float32Array<ArrayBuffer>;
  /**
   * The values of an I32 or I64 tensor, row-major, in fresh memory.
   * @throws UserError as above, and when a value does not fit 32 bits
   */
  readInt32(name: string): Int32Array<ArrayBuffer>;
  close(): void;
}

/**
 * Where rows of a row-major tensor lie: the offset of their first byte in the tensor's values, and how many bytes they take.
 * @throws RangeError when the tensor has no such rows
 */
export function byteRange(
  tensor: Pick<TensorEntry, 'name' | 'shape' | 'byteLength'>,
  rows?: RowRange,
): [number, number] {
  if (!rows) return [0, tensor.byteLength];
  const total = tensor.shape[0] ?? 0;
  if (rows.start < 0 || rows.count < 0 || rows.start + rows.count > total) {
    throw new RangeError(`${tensor.name} has ${total} rows; asked for ${rows.count} from ${rows.start}`);
  }
  const width = total === 0 ? 0 : tensor.byteLength / total;
  return [rows.start * width, rows.count * width];
}

/** Bytes of float32 values that are worked on at a time where a tensor is too large to hold. */
const CHUNK_BYTES = 32 << 20;

/** Divides a tensor into runs of rows of at most 32 MiB in float32 (at least one row each). */
export function* rowChunks(shape: readonly number[]): Generator<RowRange> {
  const [total = 1, ...rest] = shape;
  const width = rest.reduce((product, size) => product * size, 4);
  const step = Math.max(1, Math.floor(CHUNK_BYTES / Math.max(1, width)));
  for (let start = 0; start < total; start += step) yield { start, count: Math.min(step, total - start) };
}
