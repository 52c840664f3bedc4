// SPDX-License-Identifier: Apache-2.0
/** LZ4 frames (the LZ4 frame and block format descriptions, version 1.6), as Arrow's buffers are packed in. */

const MAGIC = 0x184d2204;
const STORED = 0x80000000;

/**
 * Unpacks a frame to exactly `size` bytes, with blocks that depend on one another or not. Its checksums are not looked at.
 * @throws Error when it is no LZ4 frame, damaged, or of another size
 */
export function decodeLz4Frame(frame: Uint8Array, size: number): Uint8Array {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  if (frame.length < 7 || view.getUint32(0, true) !== MAGIC) throw new Error('this is no LZ4 frame');
  const flags = view.getUint8(4);
  const hasBlockChecksum = (flags & 0x10) !== 0;
  let at = 7 + ((flags & 0x08) === 0 ? 0 : 8) + ((flags & 0x01) === 0 ? 0 : 4);
  const output = new Uint8Array(size);
  let length = 0;
  for (;;) {
    if (at + 4 > frame.length) throw new Error('the LZ4 frame ends early');
    const header = view.getUint32(at, true);
    at += 4;
    if (header === 0) break;
    const blockBytes = header & ~STORED;
    const block = frame.subarray(at, at + blockBytes);
    if (block.length !== blockBytes) throw new Error('the LZ4 frame ends early');
    at += blockBytes + (hasBlockChecksum ? 4 : 0);
    if ((header & STORED) !== 0) {
      if (length + blockBytes > size) throw new Error('an LZ4 block is damaged');
      output.set(block, length);
      length += blockBytes;
    } else {
      length = decodeBlock(block, output, length);
    }
  }
  if (length !== size) throw new Error(`the LZ4 frame holds ${length} bytes; expected ${size}`);
  return output;
}

/** Appends a block to `output[0..length)`, which its matches may reach into; returns the new length. */
function decodeBlock(block: Uint8Array, output: Uint8Array, start: number): number {
  let length = start;
  let at = 0;
  const next = (): number => {
    const byte = block[at++];
    if (byte === undefined) throw new Error('an LZ4 block ends early');
    return byte;
  };
  const count = (nibble: number): number => {
    let total = nibble;
    for (let byte = nibble === 15 ? 255 : 0; byte === 255; ) {
      byte = next();
      total += byte;
    }
    return total;
  };
  while (at < block.length) {
    const token = next();
    const literals = count(token >> 4);
    if (at + literals > block.length || length + literals > output.length) throw new Error('an LZ4 block is damaged');
    output.set(block.subarray(at, at + literals), length);
    at += literals;
    length += literals;
    if (at === block.length) return length;
    const offset = next() | (next() << 8);
    const match = 4 + count(token & 15);
    if (offset === 0 || offset > length || length + match > output.length) throw new Error('an LZ4 block is damaged');
    for (const end = length + match; length < end; length++) output[length] = output[length - offset] as number;
  }
  throw new Error('an LZ4 block ends early');
}
