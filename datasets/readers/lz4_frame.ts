// SPDX-License-Identifier: Apache-2.0
/** LZ4 frames (the LZ4 frame and block format descriptions, version 1.6), as Arrow's buffers are packed in. */

const MAGIC = 0x184d2204;
const STORED = 0x80000000;

/**
 * Unpacks a frame, with blocks that depend on one another or not. Its checksums are not looked at.
 * @throws Error when it is no LZ4 frame, or damaged
 */
export function decodeLz4Frame(frame: Uint8Array): Uint8Array {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  if (frame.length < 7 || view.getUint32(0, true) !== MAGIC) throw new Error('this is no LZ4 frame');
  const flags = view.getUint8(4);
  const hasBlockChecksum = (flags & 0x10) !== 0;
  const maxBlock = 1 << (8 + 2 * ((view.getUint8(5) >> 4) & 7));
  let at = 7 + ((flags & 0x08) === 0 ? 0 : 8) + ((flags & 0x01) === 0 ? 0 : 4);
  let output = new Uint8Array(Math.max(256, 4 * frame.length));
  let length = 0;
  for (;;) {
    const header = view.getUint32(at, true);
    at += 4;
    if (header === 0) return output.subarray(0, length);
    const size = header & ~STORED;
    const block = frame.subarray(at, at + size);
    if (block.length !== size) throw new Error('the LZ4 frame ends early');
    at += size + (hasBlockChecksum ? 4 : 0);
    if (length + maxBlock > output.length) {
      const larger = new Uint8Array(2 * output.length + maxBlock);
      larger.set(output.subarray(0, length));
      output = larger;
    }
    if ((header & STORED) !== 0) {
      output.set(block, length);
      length += size;
    } else {
      length = decodeBlock(block, output, length);
    }
  }
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
