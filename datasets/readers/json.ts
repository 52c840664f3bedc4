// SPDX-License-Identifier: Apache-2.0
/** Reads .json files: an array of records, held in memory as a whole, or JSON Lines under this name. */
import { UserError } from '../../src/errors.ts';
import { parseJson } from '../../src/json.ts';
import { readText } from './bytes.ts';
import { readJsonl } from './jsonl.ts';
import type { DataFile, Row } from './row.ts';

const MAX_CHARACTERS = 1 << 28;

/** @throws UserError for an array that is not JSON (line and column) or longer than 256 Mi characters */
export async function* readJson(file: DataFile): AsyncGenerator<Row> {
  if (!(await beginsWithArray(file))) {
    yield* readJsonl(file);
    return;
  }
  let text = '';
  for await (const piece of readText(file)) {
    text += piece;
    if (text.length > MAX_CHARACTERS) {
      throw new UserError(`${file.name}: the array is longer than 256 Mi characters; write it as JSON Lines (.jsonl)`);
    }
  }
  const values = parseJson(text, file.name) as unknown[];
  for (const [index, value] of values.entries()) yield { value, origin: { file: file.name, row: index + 1 } };
}

async function beginsWithArray(file: DataFile): Promise<boolean> {
  for await (const piece of readText(file)) {
    const [first] = piece.trimStart();
    if (first !== undefined) return first === '[';
  }
  return false;
}
