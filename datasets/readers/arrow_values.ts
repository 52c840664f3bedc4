// SPDX-License-Identifier: Apache-2.0
/** Checks that the values of a decoded Arrow batch lie within its buffers, before anything reads them. */
import { type Data, DataType, type RecordBatch, Type } from 'apache-arrow';

/** @throws Error with the column and what is wrong */
export function checkValues(batch: RecordBatch): void {
  const checkedDictionaries = new WeakSet<Data>();
  for (const [index, field] of batch.schema.fields.entries()) {
    const data = batch.data.children[index];
    if (data) checkData(data, `column ${field.name}`, checkedDictionaries);
  }
}

function checkData(data: Data, column: string, checked: WeakSet<Data>): void {
  const { length, type } = data;
  const need = (found: number, expected: number, what: string) => {
    if (found < expected) throw new Error(`${column} has ${found} ${what}; expected ${expected}`);
  };
  const child = (index: number, expected: number, name: string) => {
    const values = data.children[index];
    if (!values) throw new Error(`${column} lacks the values of its ${name}`);
    need(values.length, expected, `values in its ${name}`);
    checkData(values, `${column}.${name}`, checked);
  };
  if (!DataType.isUnion(type) && !DataType.isNull(type) && data.nullCount > 0) {
    need(8 * (data.nullBitmap?.length ?? 0), length, 'bits that say which are null');
  }
  switch (type.typeId) {
    case Type.Null:
      return;
    case Type.Bool:
      need(8 * data.values.length, length, 'bits');
      return;
    case Type.Utf8:
    case Type.Binary:
    case Type.LargeUtf8:
    case Type.LargeBinary:
      checkOffsets(data, data.values.length, column);
      return;
    case Type.List:
    case Type.LargeList:
    case Type.Map:
      child(0, checkOffsets(data, Number.POSITIVE_INFINITY, column), 'items');
      return;
    case Type.FixedSizeList: {
      const { listSize } = type as DataType & { listSize: number };
      if (listSize < 0) throw new Error(`${column} has lists of ${listSize} values`);
      child(0, listSize * length, 'items');
      return;
    }
    case Type.Struct:
      for (const [index, { name }] of type.children.entries()) child(index, length, name);
      return;
    case Type.Union:
      checkUnion(data, column, child);
      return;
    case Type.Dictionary:
      checkDictionary(data, column, need, checked);
      return;
    case Type.Utf8View:
    case Type.BinaryView:
      checkViews(data, column);
      return;
    default:
      if (data.stride < 0) throw new Error(`${column} has values of ${data.stride} parts`);
      need(data.values.length, length * data.stride, 'values');
  }
}

/** Offsets never fall, and stay within `limit`; returns the last. */
function checkOffsets({ valueOffsets, length }: Data, limit: number, column: string): number {
  if (length === 0) return 0;
  if ((valueOffsets?.length ?? 0) <= length) {
    throw new Error(`${column} has ${valueOffsets?.length ?? 0} offsets; expected ${length + 1}`);
  }
  let last = 0;
  for (let index = 0; index <= length; index++) {
    const offset = Number(valueOffsets[index]);
    if (offset < last || offset > limit) {
      throw new Error(`${column} has the offset ${offset} at ${index}; expected ${last} to ${limit}`);
    }
    last = offset;
  }
  return last;
}

function checkUnion(data: Data, column: string, child: (index: number, expected: number, name: string) => void): void {
  const { typeIds, valueOffsets, length } = data;
  const type = data.type as DataType & { typeIdToChildIndex: Record<number, number>; mode: number };
  const isDense = DataType.isDenseUnion(type);
  const expected = type.children.map(() => (isDense ? 0 : length));
  for (let index = 0; index < length; index++) {
    const chosen = type.typeIdToChildIndex[typeIds[index]];
    const offset = isDense ? Number(valueOffsets[index]) : index;
    if (chosen === undefined || !(offset >= 0)) throw new Error(`${column} is damaged at value ${index}`);
    expected[chosen] = Math.max(expected[chosen] ?? 0, offset + 1);
  }
  for (const [index, { name }] of type.children.entries()) child(index, expected[index] ?? 0, name);
}

function checkDictionary(
  data: Data,
  column: string,
  need: (found: number, expected: number, what: string) => void,
  checked: WeakSet<Data>,
): void {
  const { dictionary, values, length } = data;
  if (!dictionary) throw new Error(`${column} lacks its dictionary`);
  for (const part of dictionary.data) {
    if (checked.has(part)) continue;
    checked.add(part);
    checkData(part, `${column}'s dictionary`, checked);
  }
  need(values.length, length, 'values');
  for (let index = 0; index < length; index++) {
    const entry = Number(values[index]);
    if ((entry < 0 || entry >= dictionary.length) && data.getValid(index)) {
      throw new Error(`${column} refers to entry ${entry} of a dictionary of ${dictionary.length}`);
    }
  }
}

const VIEW_BYTES = 16;
/** A value of this length stands in the view itself. */
const INLINE_BYTES = 12;

function checkViews(data: Data, column: string): void {
  const { values, variadicBuffers, length } = data;
  if (values.byteLength < length * VIEW_BYTES) {
    throw new Error(`${column} has ${values.byteLength} bytes of views; expected ${length * VIEW_BYTES}`);
  }
  const view = new DataView(values.buffer, values.byteOffset, values.byteLength);
  for (let index = 0; index < length; index++) {
    const at = index * VIEW_BYTES;
    const size = view.getInt32(at, true);
    if (size >= 0 && size <= INLINE_BYTES) continue;
    const room = variadicBuffers[view.getInt32(at + 8, true)]?.length ?? -1;
    const offset = view.getInt32(at + 12, true);
    if ((size < 0 || offset < 0 || offset + size > room) && data.getValid(index)) {
      throw new Error(`${column} is damaged at value ${index}`);
    }
  }
}
