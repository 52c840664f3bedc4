// SPDX-License-Identifier: Apache-2.0
/** The messages of an Arrow IPC file or stream, each checked and unpacked before it is given on. */
import { CompressionType, Message } from 'apache-arrow';
import { BufferRegion, DictionaryBatch, RecordBatch } from 'apache-arrow/ipc/metadata/message';
import { decodeFooter, decodeMessage } from './arrow_metadata.ts';
import { decodeLz4Frame } from './lz4_frame.ts';
import { decodeZstd } from './zstd.ts';

/** A message behind its length. */
export interface ArrowMessage {
  message: Message;
  /** Where its body begins in the file. */
  body: number;
  /** Where it ends. */
  end: number;
}

/** Reads exactly these bytes of a file. */
export type ReadAt = (position: number, length: number) => Promise<Uint8Array>;

const MAGIC = 'ARROW1';
/** Of a file, with its padding. */
const MAGIC_BYTES = 8;
/** Length of the footer, and the magic word again. */
const TAIL_BYTES = 4 + MAGIC.length;
const CONTINUATION = -1;
/** The mark of the stream's end, and padding. */
const MOST_BEFORE_FOOTER = 64;
/** What stands before a packed buffer when it was stored as it is. */
const STORED = -1n;
/** Most bytes a batch may have unpacked: beyond what its writer could have held as well. */
const MAX_UNPACKED_BYTES = 2 ** 29;
/** Nodes longer than this need bytes in the body. */
const FREE_LENGTH = 2 ** 20;

/**
 * The schema, the dictionaries and the record batches, in the order of the stream, or as the footer of a file lists them.
 * @throws Error with the byte and what is wrong there
 */
export async function* arrowMessages(read: ReadAt, size: number): AsyncGenerator<ArrowMessage> {
  const word = async (at: number) => Buffer.from(await read(at, MAGIC.length)).toString('latin1');
  if (size < MAGIC_BYTES || (await word(0)) !== MAGIC) {
    yield* streamMessages(read, size);
    return;
  }
  if (size < MAGIC_BYTES + TAIL_BYTES || (await word(size - MAGIC.length)) !== MAGIC) {
    throw new Error(`byte ${size}: the file does not end with ${MAGIC}; it ends early`);
  }
  yield* fileMessages(read, size);
}

async function* streamMessages(read: ReadAt, size: number): AsyncGenerator<ArrowMessage> {
  let at = 0;
  while (at < size) {
    const found = await messageAt(read, at, size);
    if ('message' in found) yield found;
    at = found.end;
    if ('message' in found) continue;
    if (at < size) throw new Error(`byte ${at}: the stream ends here, ${size - at} bytes before the end of the file`);
  }
}

async function* fileMessages(read: ReadAt, size: number): AsyncGenerator<ArrowMessage> {
  const tail = size - TAIL_BYTES;
  const length = await int32(read, tail);
  const start = tail - length;
  if (length <= 0 || start < MAGIC_BYTES) {
    throw new Error(`byte ${tail}: the footer has ${length} bytes; the file has ${size}`);
  }
  const footer = decodeFooter(await read(start, length), start);
  yield { message: Message.from(footer.schema), body: start, end: start };
  let last = MAGIC_BYTES;
  for (const { offset } of [...footer.dictionaryBatches(), ...footer.recordBatches()]) {
    if (offset < MAGIC_BYTES || offset >= start) {
      throw new Error(`byte ${start}: the footer lists a batch at byte ${offset} of ${start}`);
    }
    const found = await messageAt(read, offset, start);
    if (!('message' in found)) throw new Error(`byte ${offset}: found an end of the stream; expected a batch`);
    yield found;
    last = Math.max(last, found.end);
  }
  if (start - last > MOST_BEFORE_FOOTER) {
    throw new Error(`byte ${start}: the footer lists batches up to byte ${last} alone`);
  }
}

/** The message at a place, or the mark of the stream's end. */
async function messageAt(read: ReadAt, at: number, end: number): Promise<ArrowMessage | { end: number }> {
  if (end - at < 4) throw new Error(`byte ${at}: found ${end - at} bytes; expected a message`);
  const first = await int32(read, at);
  const prefix = first === CONTINUATION ? 8 : 4;
  if (end - at < prefix) throw new Error(`byte ${at}: found ${end - at} bytes; expected a message`);
  const length = first === CONTINUATION ? await int32(read, at + 4) : first;
  const start = at + prefix;
  if (length === 0) return { end: start };
  if (length < 0 || length > end - start) {
    throw new Error(`byte ${at}: the metadata has ${length} bytes; there are ${end - start}`);
  }
  const message = decodeMessage(await read(start, length), start);
  const body = start + length;
  if (message.bodyLength < 0 || message.bodyLength > end - body) {
    throw new Error(`byte ${start}: the body has ${message.bodyLength} bytes; there are ${end - body}`);
  }
  checkBatch(message, start);
  return { message, body, end: body + message.bodyLength };
}

async function int32(read: ReadAt, at: number): Promise<number> {
  const bytes = await read(at, 4);
  return new DataView(bytes.buffer, bytes.byteOffset).getInt32(0, true);
}

/** The record batch in a message; undefined for a schema. */
export function batchOf(message: Message): RecordBatch | undefined {
  if (message.isDictionaryBatch()) return message.header().data;
  return message.isRecordBatch() ? message.header() : undefined;
}

/** Buffers lie within the body, and there are bytes for as many values as a column is said to have. */
function checkBatch(message: Message, at: number): void {
  const batch = batchOf(message);
  if (!batch) return;
  const { bodyLength } = message;
  for (const [index, { offset, length }] of batch.buffers.entries()) {
    if (offset < 0 || length < 0 || offset + length > bodyLength) {
      throw new Error(
        `byte ${at}: buffer ${index} has ${length} bytes at ${offset} of the body, which has ${bodyLength}`,
      );
    }
  }
  for (const [index, count] of batch.variadicBufferCounts.entries()) {
    if (count < 0 || count > batch.buffers.length) {
      throw new Error(`byte ${at}: view column ${index} claims ${count} buffers; there are ${batch.buffers.length}`);
    }
  }
  if (batch.compression) {
    const { type } = batch.compression;
    if (type === CompressionType.LZ4_FRAME || type === CompressionType.ZSTD) return;
    throw new Error(`byte ${at}: found compression ${type}; expected 0 (LZ4) or 1 (zstd)`);
  }
  checkLengths(batch, bodyLength, at);
}

/** No column is longer than its bytes allow, at a bit a value. */
function checkLengths(batch: RecordBatch, bodyBytes: number, at: number): void {
  const limit = FREE_LENGTH + 8 * bodyBytes;
  const lengths = [batch.length, ...batch.nodes.map(({ length }) => length)];
  const wrong = lengths.find((length) => length < 0 || length > limit);
  if (wrong !== undefined) throw new Error(`byte ${at}: found ${wrong} values in a body of ${bodyBytes} bytes`);
}

/** The bytes of a message with its length before it and its body unpacked behind it. */
export async function* encapsulate({ message, body }: ArrowMessage, read: ReadAt): AsyncGenerator<Uint8Array> {
  const batch = batchOf(message);
  if (!batch) {
    yield* framed(Message.encode(message));
    return;
  }
  const packed = await read(body, message.bodyLength);
  const buffers = batch.buffers.map(({ offset, length }) => packed.subarray(offset, offset + length));
  const plain = batch.compression ? unpackAll(buffers, batch.compression.type, body) : buffers;
  const regions: BufferRegion[] = [];
  let length = 0;
  for (const buffer of plain) {
    regions.push(new BufferRegion(length, buffer.length));
    length += padded(buffer.length);
  }
  checkLengths(batch, length, body);
  const data = new RecordBatch(batch.length, batch.nodes, regions, null, batch.variadicBufferCounts);
  const header = message.isDictionaryBatch()
    ? new DictionaryBatch(data, message.header().id, message.header().isDelta)
    : data;
  const bytes = new Uint8Array(length);
  for (const [index, buffer] of plain.entries()) bytes.set(buffer, regions[index]?.offset);
  yield* framed(Message.encode(Message.from(header, length)));
  if (length > 0) yield bytes;
}

function* framed(metadata: Uint8Array): Generator<Uint8Array> {
  const bytes = new Uint8Array(8 + padded(metadata.length));
  const view = new DataView(bytes.buffer);
  view.setInt32(0, CONTINUATION, true);
  view.setInt32(4, bytes.length - 8, true);
  bytes.set(metadata, 8);
  yield bytes;
}

function padded(length: number): number {
  return Math.ceil(length / 8) * 8;
}

/** Unpacks buffers, each of which begins with its unpacked length. */
function unpackAll(buffers: readonly Uint8Array[], type: CompressionType, at: number): Uint8Array[] {
  let total = 0;
  return buffers.map((buffer, index) => {
    if (buffer.length === 0) return buffer;
    if (buffer.length < 8) throw new Error(`byte ${at}: buffer ${index} has ${buffer.length} bytes; it is packed`);
    const packed = buffer.subarray(8);
    const length = new DataView(buffer.buffer, buffer.byteOffset).getBigInt64(0, true);
    if (length === STORED) return packed;
    total += Number(length);
    if (length < 0n || total > MAX_UNPACKED_BYTES) {
      throw new Error(
        `byte ${at}: buffer ${index} claims ${length} bytes unpacked; a batch may have ${MAX_UNPACKED_BYTES}`,
      );
    }
    const decode = type === CompressionType.ZSTD ? decodeZstd : decodeLz4Frame;
    return decode(packed, Number(length));
  });
}
