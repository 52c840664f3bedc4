// SPDX-License-Identifier: Apache-2.0
/** JSON of files nobody vouches for: errors with their position, and duplicate keys (which JSON.parse lets through). */
import { UserError } from './errors.ts';

/** What is wrong with a JSON text, and where (offset in UTF-16 units from the start of the text). */
export interface JsonFault {
  offset: number;
  message: string;
}

const MAX_DEPTH = 200;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const STRING = /"[ !#-[\]-\uffff]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[ !#-[\]-\uffff]*)*"/y;
const LITERAL = /true|false|null/y;
const SPACE = /[ \t\n\r]*/y;

/**
 * Scans `text` as strict JSON (RFC 8259) in which no object repeats a key.
 *
 * @returns the first fault, or undefined when there is none.
 */
export function findJsonFault(text: string): JsonFault | undefined {
  let position = 0;

  const skip = (pattern: RegExp): boolean => {
    pattern.lastIndex = position;
    if (!pattern.test(text)) return false;
    position = pattern.lastIndex;
    return true;
  };
  const fault = (expected: string): JsonFault => {
    const found = position >= text.length ? 'the end of the text' : JSON.stringify(text.slice(position, position + 12));
    return { offset: position, message: `expected ${expected}, found ${found}` };
  };
  const at = (character: string): boolean => {
    skip(SPACE);
    if (text[position] !== character) return false;
    position++;
    return true;
  };

  const value = (depth: number): JsonFault | undefined => {
    if (depth > MAX_DEPTH) return { offset: position, message: `nested deeper than ${MAX_DEPTH} levels` };
    if (at('{')) return members(depth);
    if (at('[')) return elements(depth);
    return skip(STRING) || skip(NUMBER) || skip(LITERAL) ? undefined : fault('a value');
  };
  const elements = (depth: number): JsonFault | undefined => {
    if (at(']')) return undefined;
    do {
      const inner = value(depth + 1);
      if (inner) return inner;
    } while (at(','));
    return at(']') ? undefined : fault('"," or "]"');
  };
  const members = (depth: number): JsonFault | undefined => {
    if (at('}')) return undefined;
    const keys = new Set<string>();
    do {
      skip(SPACE);
      const start = position;
      if (!skip(STRING)) return fault('a key in double quotes');
      const key: unknown = JSON.parse(text.slice(start, position));
      if (keys.has(String(key))) return { offset: start, message: `the key ${JSON.stringify(key)} stands twice` };
      keys.add(String(key));
      if (!at(':')) return fault('":"');
      const inner = value(depth + 1);
      if (inner) return inner;
    } while (at(','));
    return at('}') ? undefined : fault('"," or "}"');
  };

  const found = value(0);
  if (found) return found;
  skip(SPACE);
  return position === text.length ? undefined : fault('nothing after the value');
}

/**
 * Parses JSON, with the position of the first error in the message.
 *
 * @param where the file's name, for the message
 * @throws UserError `where:line:column: …` when `text` is not JSON
 */
export function parseJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const fault = findJsonFault(text) ?? { offset: 0, message: String(error) };
    const before = text.slice(0, fault.offset).split('\n');
    const column = (before.at(-1)?.length ?? 0) + 1;
    throw new UserError(`${where}:${before.length}:${column}: this is not valid JSON: ${fault.message}.`);
  }
}

/** Whether `value` is what JSON calls an object. */
export function isJsonObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
