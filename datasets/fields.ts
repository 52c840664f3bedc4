// SPDX-License-Identifier: Apache-2.0
/** Fields of records nobody vouches for: where a record was read, and its strings, token ids and messages. */
import { UserError } from '../src/errors.ts';
import { isJsonObject } from '../src/json.ts';
import type { ChatMessage } from '../src/tokenizer/chat_template.ts';

/** Where a record was read, for messages: a line of a text file, or a row of a table, both counted from 1. */
export type RecordOrigin = { file: string } & ({ line: number } | { row: number });

/** The label of a position without loss. */
export const IGNORE_INDEX = -100;

/** `file:line`, or `file: row n`. */
export function placeOf(origin: RecordOrigin): string {
  return 'row' in origin ? `${origin.file}: row ${origin.row}` : `${origin.file}:${origin.line}`;
}

/** A fault of a record, with its place. */
export function recordError(origin: RecordOrigin, message: string): UserError {
  return new UserError(`${placeOf(origin)}: ${message}`);
}

/** Whether the record has the field; a name with dots also means a field of a nested object. */
export function hasField(record: Record<string, unknown>, name: string): boolean {
  return lookUp(record, name).found;
}

/** @throws UserError listing the fields that exist when this one does not */
export function fieldOf(record: Record<string, unknown>, name: string, origin: RecordOrigin): unknown {
  const { found, value } = lookUp(record, name);
  if (found) return value;
  throw recordError(
    origin,
    `field ${name} is missing; ${foundFields(record)}. Every record of a dataset has the same fields`,
  );
}

export function stringField(record: Record<string, unknown>, name: string, origin: RecordOrigin): string {
  const field = fieldOf(record, name, origin);
  if (typeof field !== 'string') {
    throw recordError(origin, `field ${name} is ${describe(field)}; expected a string`);
  }
  return field;
}

export function idFields(
  record: Record<string, unknown>,
  origin: RecordOrigin,
): { inputIds: Int32Array; labels?: Int32Array } {
  const inputIds = idField(record, 'input_ids', 0, origin);
  if (record.labels === undefined) return { inputIds };
  const labels = idField(record, 'labels', IGNORE_INDEX, origin);
  if (labels.length !== inputIds.length) {
    throw recordError(
      origin,
      `found ${inputIds.length} input_ids and ${labels.length} labels; expected as many of both`,
    );
  }
  return { inputIds, labels };
}

/** Token ids: integers from 0, or the value that ids below 0 may have alone. */
function idField(record: Record<string, unknown>, name: string, lowest: number, origin: RecordOrigin): Int32Array {
  const field = fieldOf(record, name, origin);
  if (!Array.isArray(field)) {
    throw recordError(origin, `field ${name} is ${describe(field)}; expected an array of token ids`);
  }
  const wrong = field.findIndex(
    (id: unknown) => !(Number.isInteger(id) && (id === lowest || Number(id) >= 0) && Number(id) < 2 ** 31),
  );
  if (wrong !== -1) {
    const expected = lowest < 0 ? `a token id, or ${lowest} for no loss` : 'a token id';
    throw recordError(origin, `${name}[${wrong}] is ${describe(field[wrong])}; expected ${expected}`);
  }
  return Int32Array.from(field as number[]);
}

/** Messages `{role, content}`, or ShareGPT's `{from, value}`, whose human and gpt are user and assistant. */
export function messagesField(record: Record<string, unknown>, name: string, origin: RecordOrigin): ChatMessage[] {
  const field = fieldOf(record, name, origin);
  if (!Array.isArray(field) || field.length === 0) {
    const found = Array.isArray(field) ? 'an empty array' : describe(field);
    throw recordError(origin, `field ${name} is ${found}; expected an array of messages {"role", "content"}`);
  }
  return field.map((message: unknown, index) => messageOf(message, `${name}[${index}]`, origin));
}

const SHAREGPT_ROLES: Readonly<Record<string, string>> = { human: 'user', gpt: 'assistant' };

function messageOf(message: unknown, name: string, origin: RecordOrigin): ChatMessage {
  if (isJsonObject(message) && typeof message.role === 'string') {
    if (typeof message.content === 'string') return { ...message, role: message.role };
    throw recordError(origin, `${name}.content is ${describe(message.content)}; expected a string`);
  }
  if (isJsonObject(message) && typeof message.from === 'string' && typeof message.value === 'string') {
    return { role: SHAREGPT_ROLES[message.from] ?? message.from, content: message.value };
  }
  const found = isJsonObject(message)
    ? `an object with the fields ${Object.keys(message).join(', ')}`
    : describe(message);
  throw recordError(origin, `${name} is ${found}; expected a message {"role", "content"} or {"from", "value"}`);
}

export function foundFields(record: Record<string, unknown>): string {
  const names = Object.keys(record);
  return names.length === 0 ? 'the record has no fields' : `the record's fields are ${names.join(', ')}`;
}

/** A value in a few words. */
export function describe(value: unknown): string {
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'object' && value !== null) return 'an object';
  return typeof value === 'string' ? 'a string' : String(value);
}

function lookUp(record: Record<string, unknown>, name: string): { found: boolean; value?: unknown } {
  if (Object.hasOwn(record, name)) return { found: true, value: record[name] };
  let value: unknown = record;
  for (const key of name.split('.')) {
    if (!isJsonObject(value) || !Object.hasOwn(value, key)) return { found: false };
    value = value[key];
  }
  return { found: true, value };
}
