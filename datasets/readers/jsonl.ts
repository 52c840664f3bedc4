// SPDX-License-Identifier: Apache-2.0
/** Reads JSON Lines (jsonlines.org): UTF-8, one JSON value a line; a fault names file and line. */
import { TextDecoder } from 'node:util';
import { messageOf, UserError } from '../../src/errors.ts';
import { readLines } from './bytes.ts';
import type { DataFile, Row } from './row.ts';

/**
 * The JSON values of a file, line by line. Blank lines are skipped; a byte order mark, CRLF line ends and a last line without
 * line end are fine. A line that is not UTF-8 or not JSON is a fault.
 *
 * @throws UserError `name:line: …` for a line longer than 64 MiB, and when the file cannot be read.
 */
export async function* readJsonl(file: DataFile): AsyncGenerator<Row> {
  const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  for await (const { bytes, line } of readLines(file)) {
    const origin = { file: file.name, line };
    try {
      const text = decode(utf8, bytes, origin);
      const json = line === 1 && text.startsWith('\ufeff') ? text.slice(1) : text;
      if (json.trim() === '') continue;
      yield { value: parseLine(json, origin), origin };
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      yield { fault: error, origin };
    }
  }
}

interface Line {
  file: string;
  line: number;
}

function decode(utf8: TextDecoder, bytes: Buffer, { file, line }: Line): string {
  try {
    return utf8.decode(bytes);
  } catch {
    throw new UserError(
      `${file}:${line}: not UTF-8 text; expected a JSON Lines file in UTF-8 (not UTF-16; compressed only as .gz or .zst)`,
    );
  }
}

function parseLine(text: string, { file, line }: Line): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const hint =
      line === 1 && text.trim().startsWith('[')
        ? ' (a JSON array over several lines is no JSON Lines file; name it .json)'
        : '';
    throw new UserError(
      `${file}:${line}: not valid JSON: ${messageOf(error)}; expected one JSON object per line, such as {"text": "…"}${hint}`,
    );
  }
}
