// SPDX-License-Identifier: Apache-2.0
/** Bytes of checkpoint tensors to and from float32 and int32. Little-endian, as the formats and every supported CPU. */
import { UserError } from '../errors.ts';
import type { Dtype } from './tensor_source.ts';

/** Bytes of one element. */
export const DTYPE_BYTES: Readonly<Record<Dtype, number>> = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  F64: 8,
  I64: 8,
  U64: 8,
};

/** Float dtypes that decode to float32. */
export function isFloatDtype(dtype: Dtype): boolean {
  return dtype === 'F32' || dtype === 'BF16' || dtype === 'F16' || dtype === 'F64';
}

/**
 * float32 values of an F32, BF16, F16 or F64 buffer (F32 without a copy).
 * @param where the file and the tensor, for the message
 * @throws UserError for any other dtype
 */
export function decodeFloat32(bytes: ArrayBuffer, dtype: Dtype, where: string): Float32Array<ArrayBuffer> {
  switch (dtype) {
    case 'F32':
      return new Float32Array(bytes);
    case 'F64':
      return Float32Array.from(new Float64Array(bytes));
    case 'BF16':
      return bfloat16ToFloat32(new Uint16Array(bytes));
    case 'F16':
      return float16ToFloat32(new Uint16Array(bytes));
    default:
      throw new UserError(`${where} is stored as ${dtype}; expected a float tensor (F32, BF16, F16 or F64).`);
  }
}

/**
 * int32 values of an I32 or I64 buffer (I32 without a copy).
 * @param where the file and the tensor, for the message
 * @throws UserError for any other dtype, or for a value that does not fit 32 bits
 */
export function decodeInt32(bytes: ArrayBuffer, dtype: Dtype, where: string): Int32Array<ArrayBuffer> {
  if (dtype === 'I32') return new Int32Array(bytes);
  if (dtype !== 'I64') {
    throw new UserError(`${where} is stored as ${dtype}; expected an integer tensor (I32 or I64).`);
  }
  const halves = new Int32Array(bytes);
  const out = new Int32Array(halves.length / 2);
  for (let i = 0; i < out.length; i++) {
    const low = halves[2 * i] as number;
    if (halves[2 * i + 1] !== low >> 31) {
      throw new UserError(`${where}: element ${i} is ${new BigInt64Array(bytes)[i]}, which does not fit 32 bits.`);
    }
    out[i] = low;
  }
  return out;
}

function bfloat16ToFloat32(halves: Uint16Array): Float32Array<ArrayBuffer> {
  const bits = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) bits[i] = (halves[i] as number) << 16;
  return new Float32Array(bits.buffer);
}

let float16Table: Float32Array | undefined;

function float16ToFloat32(halves: Uint16Array): Float32Array<ArrayBuffer> {
  float16Table ??= makeFloat16Table();
  const out = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) out[i] = float16Table[halves[i] as number] as number;
  return out;
}

function makeFloat16Table(): Float32Array {
  const table = new Float32Array(65536);
  for (let half = 0; half < 65536; half++) {
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    let magnitude = (1 + fraction / 1024) * 2 ** (exponent - 15);
    if (exponent === 0) magnitude = fraction * 2 ** -24;
    else if (exponent === 31) magnitude = fraction === 0 ? Number.POSITIVE_INFINITY : Number.NaN;
    table[half] = half & 0x8000 ? -magnitude : magnitude;
  }
  return table;
}

/** float32 to bfloat16 bits, rounded to nearest even; NaN stays a quiet NaN. */
export function float32ToBfloat16(values: Float32Array): Uint16Array<ArrayBuffer> {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < out.length; i++) {
    const word = bits[i] as number;
    const isNan = (word & 0x7fffffff) > 0x7f800000;
    out[i] = isNan ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return out;
}

/** float32 to IEEE half bits, rounded to nearest even; over 65504 becomes infinity, NaN stays a quiet NaN. */
export function float32ToFloat16(values: Float32Array): Uint16Array<ArrayBuffer> {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < out.length; i++) {
    const word = bits[i] as number;
    out[i] = ((word >>> 16) & 0x8000) | halfMagnitude(word & 0x7fffffff);
  }
  return out;
}

/** Half bits of the non-negative float32 whose bits are `word`. */
function halfMagnitude(word: number): number {
  if (word > 0x7f800000) return 0x7e00 | ((word >>> 13) & 0x1ff);
  if (word >= 0x477ff000) return 0x7c00;
  if (word >= 0x38800000) return (word - 0x38000000 + 0xfff + ((word >>> 13) & 1)) >>> 13;
  // Subnormal halves are multiples of 2^-24. Below 2^-25 everything rounds to zero.
  const shift = 126 - (word >>> 23);
  if (shift > 24) return 0;
  const fraction = (word & 0x7fffff) | 0x800000;
  const rounded = fraction + (1 << (shift - 1)) - 1 + ((fraction >>> shift) & 1);
  return rounded >>> shift;
}
