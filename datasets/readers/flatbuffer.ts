// SPDX-License-Identifier: Apache-2.0
/** Checks that all that a flatbuffer refers to lies within it, as FlatBuffers' verifier does, before anything decodes it. */

/** What a field of a table holds; `bytes` are those of a number or struct. */
export type FieldKind =
  | { kind: 'number'; bytes: number }
  | { kind: 'string' }
  | { kind: 'table'; table: () => Table; required?: boolean }
  | { kind: 'numbers'; bytes: number }
  | { kind: 'tables'; table: () => Table }
  /** A table whose type a number in the field before says. */
  | { kind: 'union'; tables: ReadonlyMap<number, Table> };

/** A table's fields by their slot. */
export interface Table {
  name: string;
  fields: readonly (readonly [name: string, what: FieldKind])[];
}

/** Deepest nesting, and most tables: FlatBuffers' own limit for the first. */
const MAX_DEPTH = 64;
const MAX_TABLES = 100_000;

/**
 * @param bytes the flatbuffer, whose first four bytes refer to its root table
 * @param start place of `bytes` in the file, for messages
 * @throws Error with the byte, what it should hold and what is wrong
 */
export function checkFlatbuffer(bytes: Uint8Array, root: Table, start: number): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let tables = 0;
  const fail = (at: number, problem: string): Error => new Error(`byte ${start + at}: ${problem}`);
  const need = (at: number, count: number, what: string): void => {
    if (at < 0 || at + count > view.byteLength) {
      throw fail(Math.min(Math.max(at, 0), view.byteLength), `${what} reaches beyond the metadata`);
    }
  };
  const refer = (at: number, what: string): number => {
    need(at, 4, what);
    const offset = view.getUint32(at, true);
    if (offset === 0) throw fail(at, `${what} is nowhere`);
    need(at + offset, 4, what);
    return at + offset;
  };
  const vector = (at: number, bytesEach: number, what: string): { first: number; count: number } => {
    const place = refer(at, what);
    const count = view.getUint32(place, true);
    const room = Math.floor((view.byteLength - place - 4) / bytesEach);
    if (count > room) throw fail(place, `${what} claims ${count} entries; there is room for ${room}`);
    return { first: place + 4, count };
  };
  const table = (at: number, { name, fields }: Table, depth: number): void => {
    tables += 1;
    if (depth > MAX_DEPTH || tables > MAX_TABLES) throw fail(at, `${name} is nested too deeply or repeated too often`);
    need(at, 4, name);
    const vtable = at - view.getInt32(at, true);
    need(vtable, 4, `the layout of ${name}`);
    const vtableBytes = view.getUint16(vtable, true);
    const tableBytes = view.getUint16(vtable + 2, true);
    if (vtableBytes < 4 || vtableBytes % 2 !== 0) throw fail(vtable, `the layout of ${name} is damaged`);
    need(vtable, vtableBytes, `the layout of ${name}`);
    need(at, tableBytes, name);
    const placeOf = (slot: number): number | undefined => {
      const entry = 4 + 2 * slot;
      const offset = entry < vtableBytes ? view.getUint16(vtable + entry, true) : 0;
      return offset === 0 ? undefined : at + offset;
    };
    const typeBefore = (slot: number): number => {
      const place = placeOf(slot - 1);
      return place === undefined ? 0 : view.getUint8(place);
    };
    for (const [slot, [fieldName, field]] of fields.entries()) {
      const place = placeOf(slot);
      const what = `${fieldName} of ${name}`;
      if (place === undefined) {
        if (field.kind === 'table' && field.required) throw fail(at, `${what} is missing`);
        if (field.kind === 'union' && typeBefore(slot) !== 0) throw fail(at, `${what} is missing`);
        continue;
      }
      const inTable = field.kind === 'number' ? field.bytes : 4;
      if (place < at + 4 || place + inTable > at + tableBytes) throw fail(at, `${what} lies outside of it`);
      switch (field.kind) {
        case 'number':
          break;
        case 'string':
          vector(place, 1, what);
          break;
        case 'numbers':
          vector(place, field.bytes, what);
          break;
        case 'table':
          table(refer(place, what), field.table(), depth + 1);
          break;
        case 'tables': {
          const { first, count } = vector(place, 4, what);
          for (let index = 0; index < count; index++) {
            table(refer(first + 4 * index, what), field.table(), depth + 1);
          }
          break;
        }
        case 'union': {
          const type = typeBefore(slot);
          const chosen = field.tables.get(type);
          if (chosen === undefined) throw fail(at, `${what} has the unknown type ${type}`);
          table(refer(place, what), chosen, depth + 1);
        }
      }
    }
  };
  table(refer(0, root.name), root, 0);
}
