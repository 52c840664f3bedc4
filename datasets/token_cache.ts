// SPDX-License-Identifier: Apache-2.0
/**
 * The token cache: tokenized datasets on disk, as Arrow IPC files {input_ids, labels} under the hash of all that made them, each
 * with a .json beside it that says what the file must be. A file that is not exactly that is built anew.
 */
import { createHash, randomBytes } from 'node:crypto';
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readSync, renameSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import {
  type Data,
  Field,
  Int32,
  List,
  makeData,
  RecordBatch,
  RecordBatchFileWriter,
  Schema,
  Struct,
} from 'apache-arrow';
import { messageOf } from '../src/errors.ts';
import { fileError, hashFile, readJsonFile, writeFileAtomic, writeFully } from '../src/files.ts';
import { decodeMessage } from './readers/arrow_metadata.ts';
import type { SequenceList } from './sequences.ts';
import { batchIndex, hashBatch, type TokenBatch } from './token_batch.ts';
import type { TokenizeReport } from './tokenize.ts';

/** Raised when the same key would stand for other tokens. */
const VERSION = 2;
/** Tokens of one record batch, about. */
const BATCH_TOKENS = 1 << 20;

const idsField = new Field('input_ids', new List(new Field('item', new Int32(), false)), false);
const labelsField = new Field('labels', new List(new Field('item', new Int32(), false)), false);
const SCHEMA = new Schema([idsField, labelsField]);

/** What makes a tokenized dataset: the same makes the same. */
export interface CacheKey {
  /** Contents of the files, in their order. */
  files: string[];
  /** Contents of the tokenizer's files, in their order. */
  tokenizer: string[];
  options: Record<string, unknown>;
}

/** What is stored beside the tokens. */
export interface CachedDataset {
  report: TokenizeReport;
  messages: string[];
}

export interface OpenCache extends CachedDataset {
  examples: SequenceList;
  close(): void;
}

interface Sidecar extends CachedDataset {
  version: number;
  key: CacheKey;
  bytes: number;
  sha256: string;
  /** Of the report and messages. */
  details_sha256: string;
}

/** The file of a key. */
export function cachePath(folder: string, key: CacheKey): string {
  const hash = createHash('sha256')
    .update(JSON.stringify([VERSION, key]))
    .digest('hex');
  return join(folder, `${hash.slice(0, 32)}.arrow`);
}

/**
 * Opens the cache of a key.
 * @param onDamage gets the reason why a cache that is there cannot be used
 * @returns undefined when there is none, or none that can be trusted
 */
export async function openTokenCache(
  path: string,
  key: CacheKey,
  onDamage: (reason: string) => void,
): Promise<OpenCache | undefined> {
  if (!existsSync(sidecarPath(path))) return undefined;
  try {
    const { report, messages } = await checkSidecar(path, key);
    return { report, messages, ...openBatches(path) };
  } catch (error) {
    onDamage(messageOf(error));
    return undefined;
  }
}

async function checkSidecar(path: string, key: CacheKey): Promise<Sidecar> {
  const sidecar = readJsonFile(sidecarPath(path)) as unknown as Sidecar;
  if (sidecar.version !== VERSION || JSON.stringify(sidecar.key) !== JSON.stringify(key)) {
    throw new Error(`${sidecarPath(path)} was written for other data or settings`);
  }
  const { report, messages } = sidecar;
  if (hashDetails({ report, messages }) !== sidecar.details_sha256) {
    throw new Error(`${sidecarPath(path)} is not what was written`);
  }
  const { size } = statSync(path);
  if (size !== sidecar.bytes) throw new Error(`it has ${size} bytes, ${sidecar.bytes} were written`);
  if ((await hashFile(path)) !== sidecar.sha256) throw new Error('its content is not what was written');
  return sidecar;
}

function hashDetails({ report, messages }: CachedDataset): string {
  const text = JSON.stringify([report, messages]);
  return createHash('sha256').update(text).digest('hex');
}

export interface CacheWriter {
  add(batch: TokenBatch): void;
  /** Completes the cache; it can be opened then. Sets the report's hash of the examples. After a failure, `abandon`. */
  finish(dataset: CachedDataset): Promise<void>;
  /** Removes what was written. */
  abandon(): Promise<void>;
}

/** @throws UserError when the folder cannot be written; so do the writer's functions */
export function createCacheWriter(path: string, key: CacheKey): CacheWriter {
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`;
  const attempt = <T>(action: () => T): T => {
    try {
      return action();
    } catch (error) {
      throw fileError(error, path, 'write');
    }
  };
  const descriptor = attempt(() => {
    mkdirSync(join(path, '..'), { recursive: true });
    return openSync(temporary, 'wx');
  });
  const hash = createHash('sha256');
  const examples = createHash('sha256');
  const writer = new RecordBatchFileWriter();
  let bytes = 0;
  let failure: unknown;
  const written = (async () => {
    for await (const chunk of writer) {
      writeFully(descriptor, chunk);
      hash.update(chunk);
      bytes += chunk.byteLength;
    }
  })().catch((error: unknown) => {
    failure = error;
  });

  let waiting: TokenBatch[] = [];
  let tokens = 0;
  const flush = () => {
    if (waiting.length > 0) writer.write(recordBatch(waiting));
    waiting = [];
    tokens = 0;
  };
  let isOpen = true;
  const close = () => {
    if (isOpen) closeSync(descriptor);
    isOpen = false;
  };
  return {
    add: (batch) => {
      if (failure !== undefined) throw fileError(failure, path, 'write');
      hashBatch(examples, batch);
      waiting.push(batch);
      tokens += batch.inputIds.length;
      if (tokens >= BATCH_TOKENS) flush();
    },
    finish: async ({ report, messages }) => {
      flush();
      writer.finish();
      await written;
      if (failure !== undefined) throw fileError(failure, path, 'write');
      report.sha256 = examples.digest('hex');
      const details_sha256 = hashDetails({ report, messages });
      const sha256 = hash.digest('hex');
      const sidecar: Sidecar = { version: VERSION, key, bytes, sha256, details_sha256, report, messages };
      attempt(() => {
        fsyncSync(descriptor);
        close();
        rmSync(sidecarPath(path), { force: true });
        renameSync(temporary, path);
        writeFileAtomic(sidecarPath(path), `${JSON.stringify(sidecar)}\n`);
      });
    },
    abandon: async () => {
      writer.abort();
      await written;
      close();
      rmSync(temporary, { force: true });
    },
  };
}

function sidecarPath(path: string): string {
  return path.replace(/\.arrow$/, '.json');
}

function recordBatch(batches: readonly TokenBatch[]): RecordBatch {
  const length = batches.reduce((sum, { offsets }) => sum + offsets.length - 1, 0);
  const offsets = new Int32Array(length + 1);
  let sequence = 0;
  let start = 0;
  for (const batch of batches) {
    for (let index = 1; index < batch.offsets.length; index++)
      offsets[++sequence] = start + (batch.offsets[index] as number);
    start += batch.inputIds.length;
  }
  const column = (field: Field<List<Int32>>, key: 'inputIds' | 'labels'): Data => {
    const values = new Int32Array(start);
    let at = 0;
    for (const batch of batches) {
      values.set(batch[key], at);
      at += batch[key].length;
    }
    const child = makeData({ type: new Int32(), length: start, nullCount: 0, data: values });
    return makeData({ type: field.type, length, nullCount: 0, valueOffsets: offsets, child });
  };
  const children = [column(idsField, 'inputIds'), column(labelsField, 'labels')];
  return new RecordBatch(SCHEMA, makeData({ type: new Struct(SCHEMA.fields), length, nullCount: 0, children }));
}

/** Where a record batch has its values in the file. */
interface StoredBatch {
  offsets: Int32Array;
  ids: number;
  labels: number;
}

const FILE_MAGIC_BYTES = 8;

/** Reads the places and offsets of all batches; sequences are then read one by one. */
function openBatches(path: string): { examples: SequenceList; close(): void } {
  const descriptor = openSync(path, 'r');
  try {
    const batches = storedBatches(descriptor);
    const index = batchIndex(batches.map(({ offsets }) => offsets));
    const at = (position: number) => {
      const found = index.find(position);
      const batch = found && batches[found.batch];
      if (!batch) return undefined;
      const [start, end] = [batch.offsets[found.within] as number, batch.offsets[found.within + 1] as number];
      return {
        inputIds: readInts(descriptor, batch.ids + 4 * start, end - start),
        labels: readInts(descriptor, batch.labels + 4 * start, end - start),
      };
    };
    const examples = { length: index.length, at, tokenCounts: index.tokenCounts };
    return { examples, close: () => closeSync(descriptor) };
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
}

/** Walks the encapsulated messages of an IPC file: size and metadata of each, then its body. */
function storedBatches(descriptor: number): StoredBatch[] {
  const batches: StoredBatch[] = [];
  for (let at = FILE_MAGIC_BYTES; ; ) {
    const [, size = 0] = readInts(descriptor, at, 2);
    if (size === 0) return batches;
    const message = decodeMessage(readBytes(descriptor, at + 8, size), at + 8);
    const body = at + 8 + size;
    at = body + message.bodyLength;
    if (!message.isRecordBatch()) continue;
    const { length, buffers } = message.header();
    // Of each list: validity, offsets; then of its items: validity, values.
    const [, idOffsets, , ids, , , , labels] = buffers;
    if (!idOffsets || !ids || !labels) throw new Error('a record batch lacks its columns');
    const offsets = readInts(descriptor, body + idOffsets.offset, length + 1);
    batches.push({ offsets, ids: body + ids.offset, labels: body + labels.offset });
  }
}

function readInts(descriptor: number, position: number, count: number): Int32Array {
  return new Int32Array(readBytes(descriptor, position, 4 * count).buffer);
}

function readBytes(descriptor: number, position: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length; ) {
    const read = readSync(descriptor, bytes, done, length - done, position + done);
    if (read === 0) throw new Error('the file ends early');
    done += read;
  }
  return bytes;
}
