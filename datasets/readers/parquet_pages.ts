// SPDX-License-Identifier: Apache-2.0
/** Checks a Parquet file's metadata and pages before hyparquet decodes them, which believes what they claim. */
import type { AsyncBuffer, ColumnMetaData, Compressors, FileMetaData, RowGroup, SchemaTree } from 'hyparquet';
import { parquetSchema } from 'hyparquet';
import { parquetHeader } from 'hyparquet/src/column.js';
import { decompressPage } from 'hyparquet/src/datapage.js';
import { deltaBinaryUnpack } from 'hyparquet/src/delta.js';
import { readRleBitPackedHybrid } from 'hyparquet/src/encoding.js';
import { getMaxDefinitionLevel, getMaxRepetitionLevel, getTreePath, isFlatColumn } from 'hyparquet/src/schema.js';
import { readVarInt } from 'hyparquet/src/thrift.js';
import { checkThrift } from './thrift.ts';

/** Length of the metadata, and PAR1. */
const TAIL_BYTES = 8;
/** Most bytes of a page unpacked, and most values of a column in a row group; writers make pages of about 1 MiB. */
const MAX_PAGE_BYTES = 2 ** 28;
const MAX_VALUES = 2 ** 25;

/** Checks the metadata at the end of a file as far as that it can be decoded. @throws Error with the byte */
export async function checkFooter(file: AsyncBuffer): Promise<void> {
  const size = file.byteLength;
  if (size < TAIL_BYTES + 4) throw new Error(`it has ${size} bytes`);
  const tail = Buffer.from(await file.slice(size - TAIL_BYTES, size));
  if (tail.toString('latin1', 4) !== 'PAR1') throw new Error(`byte ${size - 4}: the file does not end with PAR1`);
  const length = tail.readUInt32LE(0);
  const start = size - TAIL_BYTES - length;
  if (start < 4) throw new Error(`byte ${size - TAIL_BYTES}: the metadata has ${length} bytes; the file has ${size}`);
  await atByte(start, async () => checkThrift(new Uint8Array(await file.slice(start, start + length)), 0, length));
}

/** Checks what the metadata says of places and counts. @throws Error naming the row group and column */
export function checkMetadata({ row_groups: groups, num_rows: rows }: FileMetaData, fileBytes: number): void {
  let total = 0n;
  for (const [index, group] of groups.entries()) {
    total += BigInt(group.num_rows);
    demand(Number(group.num_rows), MAX_VALUES, `rows of row group ${index}`);
    for (const { meta_data: column, file_path: path } of group.columns) {
      if (path) throw new Error(`row group ${index} is in another file, ${path}`);
      if (!column) throw new Error(`row group ${index} lacks the metadata of a column`);
      const { start, end } = rangeOf(column);
      const name = column.path_in_schema.join('.');
      if (start < 0n || end < start || end > BigInt(fileBytes)) {
        throw new Error(`row group ${index}, column ${name}: bytes ${start} to ${end} of a file of ${fileBytes}`);
      }
      demand(Number(column.num_values), MAX_VALUES, `values of row group ${index}, column ${name}`);
    }
  }
  if (total !== BigInt(rows)) throw new Error(`the row groups have ${total} rows; the file ${rows}`);
}

/** Checks the pages of all columns of a row group. @throws Error with the byte and column */
export async function checkPages(
  file: AsyncBuffer,
  metadata: FileMetaData,
  group: RowGroup,
  compressors: Compressors,
): Promise<void> {
  const tree = parquetSchema(metadata);
  for (const { meta_data: column } of group.columns) {
    if (!column) continue;
    const schemaPath = getTreePath(tree, column.path_in_schema);
    if (isFlatColumn(schemaPath) && column.num_values !== group.num_rows) {
      const name = column.path_in_schema.join('.');
      throw new Error(`column ${name} has ${column.num_values} values in ${group.num_rows} rows`);
    }
    const { start, end } = rangeOf(column);
    const bytes = new Uint8Array(await file.slice(Number(start), Number(end)));
    checkColumn({ bytes, start: Number(start), column, schemaPath, compressors });
  }
}

/** @throws Error unless it is a count of at most `limit` */
function demand(found: number | undefined, limit: number, what: string): void {
  if (found !== undefined && Number.isInteger(found) && found >= 0 && found <= limit) return;
  throw new Error(`found ${found} ${what}; expected 0 to ${limit}`);
}

function rangeOf(column: ColumnMetaData): { start: bigint; end: bigint } {
  const { dictionary_page_offset: dictionary, data_page_offset: data, total_compressed_size: size } = column;
  const start = BigInt(dictionary || data);
  return { start, end: start + BigInt(size) };
}

interface ColumnChunk {
  bytes: Uint8Array;
  /** Place in the file. */
  start: number;
  column: ColumnMetaData;
  schemaPath: SchemaTree[];
  compressors: Compressors;
}

function checkColumn(chunk: ColumnChunk): void {
  const { bytes, start, column } = chunk;
  const view = new DataView(bytes.buffer);
  let values = 0;
  for (let at = 0; at < bytes.length - 1; ) {
    const place = at;
    try {
      const body = checkThrift(bytes, at, bytes.length);
      const header = parquetHeader({ view, offset: at });
      const { compressed_page_size: packed, uncompressed_page_size: unpacked } = header;
      demand(packed, bytes.length - body, 'bytes of a page');
      demand(unpacked, MAX_PAGE_BYTES, 'bytes of an unpacked page');
      at = body + packed;
      values += checkPage(chunk, header, bytes.subarray(body, at));
    } catch (error) {
      const problem = error instanceof Error ? error.message.replace(/^byte \d+: /, '') : String(error);
      throw new Error(`byte ${start + place}, column ${column.path_in_schema.join('.')}: ${problem}`, { cause: error });
    }
  }
  if (values !== Number(column.num_values)) {
    const name = column.path_in_schema.join('.');
    throw new Error(`byte ${start}, column ${name}: its pages have ${values} values; expected ${column.num_values}`);
  }
}

type PageHeader = ReturnType<typeof parquetHeader>;

/** Checks the counts of a page against its content; returns how many values it adds to its column. */
function checkPage({ column, schemaPath, compressors }: ColumnChunk, header: PageHeader, packed: Uint8Array): number {
  const { type, uncompressed_page_size: size, data_page_header: v1, data_page_header_v2: v2 } = header;
  const page = v1 ?? v2;
  if (type === 'DICTIONARY_PAGE') {
    demand(header.dictionary_page_header?.num_values, MAX_VALUES, 'entries of a dictionary');
    return 0;
  }
  if (!page) throw new Error(`found a page of the type ${type}; expected data or a dictionary`);
  const count = page.num_values;
  demand(count, Number(column.num_values), 'values of a page');
  const maxLevels = [getMaxRepetitionLevel(schemaPath), getMaxDefinitionLevel(schemaPath)];
  const levels = { count, maxDefinition: maxLevels[1] as number };
  if (v2) {
    const lengths = [v2.repetition_levels_byte_length, v2.definition_levels_byte_length];
    let at = 0;
    for (const [index, length] of lengths.entries()) {
      demand(length, packed.length - at, 'bytes of levels');
      const max = maxLevels[index] as number;
      if (max > 0) checkRuns(packed, at, widthOf(max), count);
      at += length;
    }
    demand(v2.num_nulls, count, 'nulls of a page');
    demand(v2.num_rows, count, 'rows of a page');
    const rest = packed.subarray(at);
    const plain = v2.is_compressed ? decompressPage(rest, size - at, column.codec, compressors) : rest;
    checkEncoded(plain, 0, v2.encoding, count - v2.num_nulls, column);
    return count;
  }
  const plain = decompressPage(packed, size, column.codec, compressors);
  const view = new DataView(plain.buffer, plain.byteOffset, plain.byteLength);
  let at = 0;
  let nulls = 0;
  for (const [index, max] of maxLevels.entries()) {
    if (max === 0) continue;
    const length = view.getUint32(at, true);
    demand(length, plain.length - at - 4, 'bytes of levels');
    checkRuns(plain, at + 4, widthOf(max), count);
    if (index === 1) nulls = countNulls(view, at, levels);
    at += 4 + length;
  }
  checkEncoded(plain, at, page.encoding, count - nulls, column);
  return count;
}

function countNulls(view: DataView, at: number, { count, maxDefinition }: { count: number; maxDefinition: number }) {
  const levels = new Uint32Array(count);
  readRleBitPackedHybrid({ view, offset: at }, widthOf(maxDefinition), levels as unknown as number[]);
  return levels.reduce((nulls, level) => nulls + Number(level !== maxDefinition), 0);
}

/** Bits of levels up to `max`. */
function widthOf(max: number): number {
  return 32 - Math.clz32(max);
}

function checkEncoded(
  bytes: Uint8Array,
  at: number,
  encoding: string | undefined,
  count: number,
  { type }: ColumnMetaData,
): void {
  if (encoding?.endsWith('_DICTIONARY')) {
    if (count > 0) checkRuns(bytes, at + 1, bytes[at] ?? 0, count);
  } else if (encoding === 'RLE') {
    if (type === 'BOOLEAN' && count > 0) checkRuns(bytes, at + 4, 1, count);
  } else if (encoding === 'DELTA_BYTE_ARRAY') checkPrefixes(bytes, at, count);
}

/** Runs of equal or packed values make no more values than there are. */
function checkRuns(bytes: Uint8Array, at: number, width: number, count: number): void {
  if (width > 32) throw new Error(`values of ${width} bits`);
  if (width === 0) return;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const reader = { view, offset: at };
  for (let seen = 0; seen < count; ) {
    const header = readVarInt(reader) >>> 0;
    const isPacked = (header & 1) === 1;
    const values = (header >>> 1) * (isPacked ? 8 : 1);
    // The last group of eight is filled up.
    if (values > count - seen + (isPacked ? 7 : 0)) {
      throw new Error(`a run of ${values} values, where ${count - seen} are left`);
    }
    reader.offset += isPacked ? (header >>> 1) * width : Math.ceil(width / 8);
    seen += values;
  }
}

/** Each text begins with as much of the one before it as that one has. */
function checkPrefixes(bytes: Uint8Array, at: number, count: number): void {
  if (count === 0) return;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const reader = { view, offset: at };
  const [prefixes, suffixes] = [new Int32Array(count), new Int32Array(count)];
  deltaBinaryUnpack(reader, count, prefixes);
  deltaBinaryUnpack(reader, count, suffixes);
  let [previous, total] = [0, 0];
  for (const [index, prefix] of prefixes.entries()) {
    const suffix = suffixes[index] as number;
    if (prefix < 0 || prefix > previous || suffix < 0 || suffix > bytes.length) {
      throw new Error(`text ${index} repeats ${prefix} bytes of one of ${previous} and adds ${suffix}`);
    }
    previous = prefix + suffix;
    total += previous;
    if (total > MAX_PAGE_BYTES) throw new Error(`a page of texts of more than ${MAX_PAGE_BYTES} bytes`);
  }
}

async function atByte<T>(start: number, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    const found = error instanceof Error ? /^byte (\d+): (.*)$/.exec(error.message) : null;
    if (!found) throw error;
    throw new Error(`byte ${start + Number(found[1])}: ${found[2]}`, { cause: error });
  }
}
