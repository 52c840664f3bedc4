// SPDX-License-Identifier: Apache-2.0
/** Zstandard frames (RFC 8878), by fzstd, which believes what their headers say. */
import { decompress } from 'fzstd';

const MAGIC = 0xfd2fb528;
/** Magic, descriptor, window, dictionary and content size at their longest. */
const MAX_HEADER_BYTES = 18;
/** The largest window that zstd's own programs accept without being asked to. */
const MAX_WINDOW_BYTES = 2 ** 27;

/**
 * Unpacks frames to exactly `length` bytes.
 * @throws Error when they are damaged, or hold more or less
 */
export function decodeZstd(packed: Uint8Array, length: number): Uint8Array {
  const claimed = checkZstdHeader(packed) ?? length;
  if (claimed !== length) throw new Error(`the zstd frame holds ${claimed} bytes; expected ${length}`);
  const output = decompress(packed);
  if (output.length !== length) throw new Error(`the zstd frame holds ${output.length} bytes; expected ${length}`);
  return output;
}

/**
 * Checks the header of a frame, or what there is of it.
 * @returns the size of its content, where the header has it
 * @throws Error when it is none, or asks for more memory than zstd's programs give
 */
export function checkZstdHeader(frame: Uint8Array): number | undefined {
  const bytes = Buffer.alloc(MAX_HEADER_BYTES);
  bytes.set(frame.subarray(0, MAX_HEADER_BYTES));
  if (bytes.readUInt32LE(0) !== MAGIC) {
    if (bytes.readUInt32LE(0) >>> 4 === 0x184d2a5) return undefined;
    throw new Error('this is no zstd frame');
  }
  const descriptor = bytes.readUInt8(4);
  const isSingleSegment = (descriptor & 0x20) !== 0;
  const exponent = bytes.readUInt8(5) >>> 3;
  const window = 2 ** (10 + exponent) * (1 + (bytes.readUInt8(5) & 7) / 8);
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3] ?? 0;
  const sizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][descriptor >>> 6] ?? 0;
  const at = (isSingleSegment ? 5 : 6) + dictionaryBytes;
  const size =
    sizeBytes === 8
      ? Number(bytes.readBigUInt64LE(at))
      : sizeBytes === 0
        ? undefined
        : bytes.readUIntLE(at, sizeBytes) + (sizeBytes === 2 ? 256 : 0);
  const needed = isSingleSegment ? (size ?? 0) : window;
  if (needed > MAX_WINDOW_BYTES) {
    throw new Error(`the zstd frame asks for a window of ${needed} bytes; at most ${MAX_WINDOW_BYTES} are given`);
  }
  return size;
}
