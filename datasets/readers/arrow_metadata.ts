// SPDX-License-Identifier: Apache-2.0
/** The metadata of Arrow messages (format/Message.fbs and Schema.fbs of the Arrow format), checked before it is decoded. */
import { Message, MessageHeader, MetadataVersion } from 'apache-arrow';
import { Footer } from 'apache-arrow/ipc/metadata/file';
import { checkFlatbuffer, type FieldKind, type Table } from './flatbuffer.ts';

const number = (bytes: number): FieldKind => ({ kind: 'number', bytes });
const string: FieldKind = { kind: 'string' };
const numbers = (bytes: number): FieldKind => ({ kind: 'numbers', bytes });
const one = (table: () => Table): FieldKind => ({ kind: 'table', table });
const many = (table: () => Table): FieldKind => ({ kind: 'tables', table });
const define = (name: string, fields: Record<string, FieldKind> = {}): Table => ({
  name,
  fields: Object.entries(fields),
});

const keyValue = define('KeyValue', { key: string, value: string });
const metadata = many(() => keyValue);
const int = define('Int', { bitWidth: number(4), is_signed: number(1) });
const unit = { unit: number(2) };

const types = new Map(
  [
    define('Null'),
    int,
    define('FloatingPoint', { precision: number(2) }),
    define('Binary'),
    define('Utf8'),
    define('Bool'),
    define('Decimal', { precision: number(4), scale: number(4), bitWidth: number(4) }),
    define('Date', unit),
    define('Time', { ...unit, bitWidth: number(4) }),
    define('Timestamp', { ...unit, timezone: string }),
    define('Interval', unit),
    define('List'),
    define('Struct'),
    define('Union', { mode: number(2), typeIds: numbers(4) }),
    define('FixedSizeBinary', { byteWidth: number(4) }),
    define('FixedSizeList', { listSize: number(4) }),
    define('Map', { keysSorted: number(1) }),
    define('Duration', unit),
    define('LargeBinary'),
    define('LargeUtf8'),
    define('LargeList'),
    define('RunEndEncoded'),
    define('BinaryView'),
    define('Utf8View'),
    define('ListView'),
    define('LargeListView'),
  ].map((table, index) => [index + 1, table]),
);

const dictionaryEncoding = define('DictionaryEncoding', {
  id: number(8),
  indexType: one(() => int),
  isOrdered: number(1),
  dictionaryKind: number(2),
});

const field: Table = define('Field', {
  name: string,
  nullable: number(1),
  type_type: number(1),
  type: { kind: 'union', tables: types },
  dictionary: one(() => dictionaryEncoding),
  children: many(() => field),
  custom_metadata: metadata,
});

const schema = define('Schema', {
  endianness: number(2),
  fields: many(() => field),
  custom_metadata: metadata,
  features: numbers(8),
});

const bodyCompression = define('BodyCompression', { codec: number(1), method: number(1) });

const recordBatch = define('RecordBatch', {
  length: number(8),
  nodes: numbers(16),
  buffers: numbers(16),
  compression: one(() => bodyCompression),
  variadicBufferCounts: numbers(8),
});

const dictionaryBatch = define('DictionaryBatch', {
  id: number(8),
  data: { kind: 'table', table: () => recordBatch, required: true },
  isDelta: number(1),
});

const message = define('Message', {
  version: number(2),
  header_type: number(1),
  header: {
    kind: 'union',
    tables: new Map([
      [MessageHeader.Schema, schema],
      [MessageHeader.DictionaryBatch, dictionaryBatch],
      [MessageHeader.RecordBatch, recordBatch],
    ]),
  },
  bodyLength: number(8),
  custom_metadata: metadata,
});

const footer = define('Footer', {
  version: number(2),
  schema: { kind: 'table', table: () => schema, required: true },
  dictionaries: numbers(24),
  recordBatches: numbers(24),
  custom_metadata: metadata,
});

/** Decodes a file's footer, as {@link decodeMessage} does a message. */
export function decodeFooter(bytes: Uint8Array, start: number): Footer {
  checkFlatbuffer(bytes, footer, start);
  return Footer.decode(bytes);
}

/**
 * Decodes the metadata of a message, of which nothing lies outside of it.
 * @param start its place in the file, for messages
 * @throws Error with the byte and what is wrong there
 */
export function decodeMessage(bytes: Uint8Array, start: number): Message {
  checkFlatbuffer(bytes, message, start);
  const decoded = Message.decode(bytes);
  const { headerType, version } = decoded;
  if (![MessageHeader.Schema, MessageHeader.DictionaryBatch, MessageHeader.RecordBatch].includes(headerType)) {
    throw new Error(`byte ${start}: found a message of the type ${headerType}; expected a schema or a batch`);
  }
  if (version !== MetadataVersion.V4 && version !== MetadataVersion.V5) {
    throw new Error(
      `byte ${start}: found metadata version ${version + 1}; expected 4 or 5, which Arrow writes since 2017`,
    );
  }
  return decoded;
}
