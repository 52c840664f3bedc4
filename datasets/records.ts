// SPDX-License-Identifier: Apache-2.0
/** Records: what a line of a dataset says, as text, as prompt and completion, or as token ids. */
import { UserError } from '../src/errors.ts';
import { isJsonObject } from '../src/json.ts';

/** Where a record was read, for messages. */
export interface RecordOrigin {
  file: string;
  line: number;
}

export type DataRecord = RecordOrigin &
  (
    | { kind: 'text'; text: string }
    | { kind: 'prompt-completion'; prompt: string; completion: string }
    /** `labels` as long as `inputIds`; -100 carries no loss. Without labels every token does. */
    | { kind: 'input-ids'; inputIds: Int32Array; labels?: Int32Array }
  );

export type RecordKind = DataRecord['kind'];

/** The fields to read. Naming one decides the kind of record; otherwise the fields of the first record decide. */
export interface FieldNames {
  /** Default `text`. */
  textField?: string;
  /** Default `prompt`. */
  promptField?: string;
  /** Default `completion`. */
  completionField?: string;
}

/** Reads the lines of one dataset: all of one kind. */
export type RecordParser = (value: unknown, origin: RecordOrigin) => DataRecord;

/** The label of a position without loss. */
export const IGNORE_INDEX = -100;

/**
 * A parser for one dataset.
 *
 * @throws UserError from the parser, `file:line: …`, for a value that is no object, a missing field (lists those that are
 *   there), a field of the wrong type, labels of another length than the ids.
 */
export function recordParser(fields: FieldNames = {}): RecordParser {
  const text = fields.textField ?? 'text';
  const prompt = fields.promptField ?? 'prompt';
  const completion = fields.completionField ?? 'completion';
  let kind = chosenKind(fields);

  return (value, origin) => {
    if (!isJsonObject(value)) {
      throw fault(origin, `found ${describe(value)}; expected a JSON object, such as {"text": "…"}`);
    }
    kind ??= kindOf(value, origin, [prompt, completion, text]);
    switch (kind) {
      case 'text':
        return { ...origin, kind, text: stringField(value, text, origin) };
      case 'prompt-completion':
        return {
          ...origin,
          kind,
          prompt: stringField(value, prompt, origin),
          completion: stringField(value, completion, origin),
        };
      case 'input-ids':
        return { ...origin, kind, ...idFields(value, origin) };
    }
  };
}

function chosenKind(fields: FieldNames): RecordKind | undefined {
  if (fields.textField !== undefined) return 'text';
  return fields.promptField !== undefined || fields.completionField !== undefined ? 'prompt-completion' : undefined;
}

function kindOf(value: Record<string, unknown>, origin: RecordOrigin, names: [string, string, string]): RecordKind {
  const [prompt, completion, text] = names;
  const kinds: RecordKind[] = [];
  if (Object.hasOwn(value, 'input_ids')) kinds.push('input-ids');
  if (Object.hasOwn(value, prompt) && Object.hasOwn(value, completion)) kinds.push('prompt-completion');
  if (Object.hasOwn(value, text)) kinds.push('text');
  const [kind, other] = kinds;
  if (kind === undefined) {
    throw fault(
      origin,
      `${foundFields(value)}; expected text, or prompt and completion, or input_ids. Set text_field, or prompt_field and completion_field, to read other fields`,
    );
  }
  if (other !== undefined) {
    throw fault(
      origin,
      `${foundFields(value)}, which can be read as ${kinds.join(' and as ')}. Set text_field, or prompt_field and completion_field, to say how`,
    );
  }
  return kind;
}

function stringField(value: Record<string, unknown>, name: string, origin: RecordOrigin): string {
  const field = fieldOf(value, name, origin);
  if (typeof field !== 'string') throw fault(origin, `field ${name} is ${describe(field)}; expected a string`);
  return field;
}

function idFields(value: Record<string, unknown>, origin: RecordOrigin): { inputIds: Int32Array; labels?: Int32Array } {
  const inputIds = idField(value, 'input_ids', 0, origin);
  if (value.labels === undefined) return { inputIds };
  const labels = idField(value, 'labels', IGNORE_INDEX, origin);
  if (labels.length !== inputIds.length) {
    throw fault(origin, `found ${inputIds.length} input_ids and ${labels.length} labels; expected as many of both`);
  }
  return { inputIds, labels };
}

/** Token ids: integers from 0, or the value that ids below 0 may have alone. */
function idField(value: Record<string, unknown>, name: string, lowest: number, origin: RecordOrigin): Int32Array {
  const field = fieldOf(value, name, origin);
  if (!Array.isArray(field)) throw fault(origin, `field ${name} is ${describe(field)}; expected an array of token ids`);
  const wrong = field.findIndex(
    (id: unknown) => !(Number.isInteger(id) && (id === lowest || Number(id) >= 0) && Number(id) < 2 ** 31),
  );
  if (wrong !== -1) {
    const expected = lowest < 0 ? `a token id, or ${lowest} for no loss` : 'a token id';
    throw fault(origin, `${name}[${wrong}] is ${describe(field[wrong])}; expected ${expected}`);
  }
  return Int32Array.from(field as number[]);
}

function fieldOf(value: Record<string, unknown>, name: string, origin: RecordOrigin): unknown {
  if (!Object.hasOwn(value, name)) {
    throw fault(
      origin,
      `field ${name} is missing; ${foundFields(value)}. Every record of a dataset has the same fields`,
    );
  }
  return value[name];
}

function foundFields(value: Record<string, unknown>): string {
  const names = Object.keys(value);
  return names.length === 0 ? 'the record has no fields' : `the record's fields are ${names.join(', ')}`;
}

function describe(value: unknown): string {
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'object' && value !== null) return 'an object';
  return typeof value === 'string' ? 'a string' : String(value);
}

function fault(origin: RecordOrigin, message: string): UserError {
  return new UserError(`${origin.file}:${origin.line}: ${message}`);
}
