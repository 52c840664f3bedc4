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

/** An open checkpoint. The readers convert; the file keeps its dtype. */
export interface TensorSource {
  /** The file, or the folder of the shards. */
  readonly path: string;
  readonly entries: ReadonlyMap<string, TensorEntry>;
  /** The file's own key-value notes (safetensors' `__metadata__`). */
  readonly metadata: Readonly<Record<string, string>>;
  /**
   * The values of an F32, BF16, F16 or F64 tensor, row-major, in fresh memory.
   * @throws UserError when there is no such tensor, its dtype is another, or the file ends too early
   */
  readFloat32(name: string): Float32Array<ArrayBuffer>;
  /**
   * The values of an I32 or I64 tensor, row-major, in fresh memory.
   * @throws UserError as above, and when a value does not fit 32 bits
   */
  readInt32(name: string): Int32Array<ArrayBuffer>;
  close(): void;
}
