// SPDX-License-Identifier: Apache-2.0
/** Reads plain text: its lines, paragraphs or whole documents as records of text. */
import { TextDecoder } from 'node:util';
import { UserError } from '../../src/errors.ts';
import { readLines, readText } from './bytes.ts';
import { type DataFile, MAX_LINE_BYTES, type Row } from './row.ts';

/** What of a text file is one record; the names of Hugging Face datasets. */
export type SampleBy = 'line' | 'paragraph' | 'document';

/**
 * The records `{text}` of a file. Blank lines separate paragraphs and are no lines; a document of nothing but them is none.
 * A line that is not UTF-8 is a fault.
 *
 * @throws UserError for a paragraph or document longer than 64 MiB
 */
export async function* readTextFile(file: DataFile, sampleBy: SampleBy): AsyncGenerator<Row> {
  if (sampleBy === 'document') yield* readDocument(file);
  else if (sampleBy === 'line') yield* readTextLines(file);
  else yield* readParagraphs(file);
}

async function* readDocument(file: DataFile): AsyncGenerator<Row> {
  let text = '';
  for await (const piece of readText(file)) {
    text += piece;
    if (text.length > MAX_LINE_BYTES) throw tooLong(file, 1, 'document');
  }
  if (text.trim() !== '') yield { value: { text }, origin: { file: file.name, line: 1 } };
}

async function* readTextLines(file: DataFile): AsyncGenerator<Row> {
  const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  for await (const { bytes, line } of readLines(file)) {
    const origin = { file: file.name, line };
    let text: string;
    try {
      text = utf8.decode(bytes).replace(/\r$/, '');
    } catch {
      yield { fault: new UserError(`${file.name}:${line}: not UTF-8 text; save the file as UTF-8`), origin };
      continue;
    }
    if (line === 1 && text.startsWith('\ufeff')) text = text.slice(1);
    if (text.trim() !== '') yield { value: { text }, origin };
  }
}

async function* readParagraphs(file: DataFile): AsyncGenerator<Row> {
  let lines: string[] = [];
  let size = 0;
  let start = 0;
  const paragraph = (): Row => ({ value: { text: lines.join('\n') }, origin: { file: file.name, line: start } });
  let previous = 0;
  for await (const row of readTextLines(file)) {
    const line = 'line' in row.origin ? row.origin.line : 0;
    if (line !== previous + 1 && lines.length > 0) {
      yield paragraph();
      lines = [];
      size = 0;
    }
    previous = line;
    if ('fault' in row) {
      yield row;
      continue;
    }
    const { text } = row.value as { text: string };
    if (lines.length === 0) start = line;
    lines.push(text);
    size += text.length;
    if (size > MAX_LINE_BYTES) throw tooLong(file, start, 'paragraph');
  }
  if (lines.length > 0) yield paragraph();
}

function tooLong({ name }: DataFile, line: number, what: string): UserError {
  return new UserError(`${name}:${line}: the ${what} is longer than 64 Mi characters; set sample_by: line`);
}
