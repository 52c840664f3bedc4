// SPDX-License-Identifier: Apache-2.0
/** Records: what a line or row of a dataset says: a text, a prompt and its completion, messages, an instruction, or token ids. */
import { isJsonObject } from '../src/json.ts';
import type { ChatMessage } from '../src/tokenizer/chat_template.ts';
import {
  describe,
  fieldOf,
  foundFields,
  hasField,
  idFields,
  messagesField,
  type RecordOrigin,
  recordError,
  stringField,
} from './fields.ts';

export type DataRecord = RecordOrigin &
  (
    | { kind: 'text'; text: string }
    | { kind: 'prompt-completion'; prompt: string; completion: string }
    | { kind: 'messages'; messages: ChatMessage[] }
    /** `input` may be empty: what the instruction is about, when it is not in the instruction. */
    | { kind: 'instruction'; instruction: string; input: string; output: string }
    /** `labels` as long as `inputIds`; -100 carries no loss. Without labels every token does. */
    | { kind: 'input-ids'; inputIds: Int32Array; labels?: Int32Array }
  );

export type RecordKind = DataRecord['kind'];

/**
 * The fields to read, a name with dots for one of a nested object. Naming one decides the kind of record; otherwise the fields
 * of the first record decide.
 */
export interface FieldNames {
  /** Default `text`. */
  textField?: string;
  /** Default `prompt`. */
  promptField?: string;
  /** Default `completion`. */
  completionField?: string;
  /** Default `messages`, or ShareGPT's `conversations`. */
  messagesField?: string;
  /** Default `instruction`. */
  instructionField?: string;
  /** Default `input`, where there is one. */
  inputField?: string;
  /** Default `output`. */
  outputField?: string;
}

/** Reads the lines of one dataset: all of one kind. */
export type RecordParser = (value: unknown, origin: RecordOrigin) => DataRecord;

/**
 * A parser for one dataset.
 *
 * @throws UserError from the parser, with the record's place, for a value that is no object, a missing field (lists those that
 *   are there), a field of the wrong type, labels of another length than the ids.
 */
export function recordParser(fields: FieldNames = {}): RecordParser {
  let kind = chosenKind(fields);
  return (value, origin) => {
    if (!isJsonObject(value)) {
      throw recordError(origin, `found ${describe(value)}; expected a JSON object, such as {"text": "…"}`);
    }
    kind ??= kindOf(value, origin, fields);
    return { ...origin, ...contentOf(kind, value, origin, fields) };
  };
}

type Content = DataRecord extends infer Each
  ? Each extends RecordOrigin
    ? Omit<Each, 'file' | 'line' | 'row'>
    : never
  : never;

function contentOf(
  kind: RecordKind,
  value: Record<string, unknown>,
  origin: RecordOrigin,
  fields: FieldNames,
): Content {
  const text = (name: string) => stringField(value, name, origin);
  switch (kind) {
    case 'text':
      return { kind, text: text(fields.textField ?? 'text') };
    case 'prompt-completion':
      return {
        kind,
        prompt: text(fields.promptField ?? 'prompt'),
        completion: text(fields.completionField ?? 'completion'),
      };
    case 'messages':
      return { kind, messages: messagesField(value, messagesName(value, fields), origin) };
    case 'instruction': {
      const { instructionField = 'instruction', inputField, outputField = 'output' } = fields;
      return {
        kind,
        instruction: text(instructionField),
        input: inputText(value, inputField, origin),
        output: text(outputField),
      };
    }
    case 'input-ids':
      return { kind, ...idFields(value, origin) };
  }
}

/** The input of an instruction: missing or null means none, unless the field was named. */
function inputText(value: Record<string, unknown>, name: string | undefined, origin: RecordOrigin): string {
  if (name === undefined && !hasField(value, 'input')) return '';
  return fieldOf(value, name ?? 'input', origin) === null ? '' : stringField(value, name ?? 'input', origin);
}

function messagesName(value: Record<string, unknown>, fields: FieldNames): string {
  if (fields.messagesField !== undefined) return fields.messagesField;
  return !hasField(value, 'messages') && hasField(value, 'conversations') ? 'conversations' : 'messages';
}

/** The kind that the named fields belong to. */
function chosenKind(fields: FieldNames): RecordKind | undefined {
  if (fields.textField !== undefined) return 'text';
  if (fields.promptField !== undefined || fields.completionField !== undefined) return 'prompt-completion';
  if (fields.messagesField !== undefined) return 'messages';
  const { instructionField, inputField, outputField } = fields;
  return [instructionField, inputField, outputField].some((name) => name !== undefined) ? 'instruction' : undefined;
}

const HOW_TO_CHOOSE =
  'text_field, or prompt_field and completion_field, or messages_field, or instruction_field and output_field';

function kindOf(value: Record<string, unknown>, origin: RecordOrigin, fields: FieldNames): RecordKind {
  const has = (...names: string[]) => names.every((name) => hasField(value, name));
  const kinds: RecordKind[] = [];
  if (has('input_ids')) kinds.push('input-ids');
  if (has('prompt', 'completion')) kinds.push('prompt-completion');
  if (has(messagesName(value, fields))) kinds.push('messages');
  if (has('instruction', 'output')) kinds.push('instruction');
  if (has('text')) kinds.push('text');
  const [kind, other] = kinds;
  if (kind === undefined) {
    throw recordError(
      origin,
      `${foundFields(value)}; expected text, or prompt and completion, or messages, or instruction and output, or input_ids. Set ${HOW_TO_CHOOSE}, to read other fields`,
    );
  }
  if (other !== undefined) {
    throw recordError(
      origin,
      `${foundFields(value)}, which can be read as ${kinds.join(' and as ')}. Set ${HOW_TO_CHOOSE}, to say how`,
    );
  }
  return kind;
}
