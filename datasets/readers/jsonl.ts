// SPDX-License-Identifier: Apache-2.0
/** Reads JSON Lines (jsonlines.org) as a stream: UTF-8, one JSON value a line; a fault names file and line. */
import { createReadStream } from 'node:fs';
import { TextDecoder } from 'node:util';
import { messageOf, UserError } from '../../src/errors.ts';
import { fileError } from '../../src/files.ts';

export interface JsonLine {
  value: unknown;
  /** Counted from 1, blank lines included. */
  line: number;
}

const MAX_LINE_BYTES = 64 * 1024 * 1024;
const NEWLINE = 0x0a;

/**
 * The JSON values of a file, line by line, without holding the file in memory. Blank lines are skipped; a byte order mark,
 * CRLF line ends and a last line without line end are fine.
 *
 * @param name what messages call the file; default its path.
 * @throws UserError `name:line: …` for a line that is not UTF-8, not JSON or longer than 64 MiB, and when the file
 *   cannot be read.
 */
export async function* readJsonl(path: string, name: string = path): AsyncGenerator<JsonLine> {
  const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  let line = 0;
  for await (const bytes of readLines(path, name)) {
    line += 1;
    const text = decode(utf8, bytes, name, line);
    const json = line === 1 && text.startsWith('\ufeff') ? text.slice(1) : text;
    if (json.trim() !== '') yield { value: parseLine(json, name, line), line };
  }
}

/** The lines of a file as bytes, without their newline. */
async function* readLines(path: string, name: string): AsyncGenerator<Buffer> {
  let pieces: Buffer[] = [];
  let pending = 0;
  let line = 1;
  const add = (piece: Buffer) => {
    pieces.push(piece);
    pending += piece.length;
    if (pending > MAX_LINE_BYTES) {
      throw new UserError(`${name}:${line}: the line is longer than 64 MiB; expected one JSON object per line`);
    }
  };
  try {
    for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
      let start = 0;
      for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, start)) {
        add(chunk.subarray(start, end));
        yield Buffer.concat(pieces);
        pieces = [];
        pending = 0;
        line += 1;
        start = end + 1;
      }
      if (start < chunk.length) add(chunk.subarray(start));
    }
  } catch (error) {
    throw fileError(error, path, 'read');
  }
  if (pending > 0) yield Buffer.concat(pieces);
}

function decode(utf8: TextDecoder, bytes: Buffer, name: string, line: number): string {
  try {
    return utf8.decode(bytes);
  } catch {
    throw new UserError(
      `${name}:${line}: not UTF-8 text; expected a JSON Lines file in UTF-8 (not compressed, not UTF-16)`,
    );
  }
}

function parseLine(text: string, name: string, line: number): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const hint =
      line === 1 && text.trim().startsWith('[') ? ' (a JSON array over several lines is no JSON Lines file)' : '';
    throw new UserError(
      `${name}:${line}: not valid JSON: ${messageOf(error)}; expected one JSON object per line, such as {"text": "…"}${hint}`,
    );
  }
}
