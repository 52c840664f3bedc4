// SPDX-License-Identifier: Apache-2.0
/** Reads CSV (RFC 4180) and TSV with a header line, by csv-parse. Every value is a text. */
import { Readable } from 'node:stream';
import { parse } from 'csv-parse';
import { UserError } from '../../src/errors.ts';
import { readText, uncompressedName } from './bytes.ts';
import { type DataFile, fileFault, MAX_LINE_BYTES, type Row } from './row.ts';

/**
 * The rows as objects with the header's names. Quoted values may hold line breaks and doubled quotes; CRLF, a byte order mark
 * and blank lines are fine. A row with more or fewer values than the header is a fault.
 *
 * @throws UserError for quotes that do not end, text that is not UTF-8, and a header with an empty name or one twice
 */
export async function* readCsv(file: DataFile): AsyncGenerator<Row> {
  const parser = parse({
    delimiter: uncompressedName(file.path).endsWith('.tsv') ? '\t' : ',',
    bom: true,
    raw: true,
    relax_column_count: true,
    max_record_size: MAX_LINE_BYTES,
  });
  const source = Readable.from(readText(file));
  source.on('error', (error) => parser.destroy(error));
  source.pipe(parser);
  let header: string[] | undefined;
  let nextLine = 1;
  try {
    for await (const { record, raw } of parser as AsyncIterable<{ record: string[]; raw: string }>) {
      // `raw` holds the first character of the line end behind it.
      const text = raw.replace(/[\r\n]$/, '');
      const line = nextLine;
      nextLine += text.split('\n').length;
      if (text === '') continue;
      const origin = { file: file.name, line };
      if (header === undefined) {
        header = checkHeader(record, file);
        continue;
      }
      if (record.length === header.length) {
        yield { value: Object.fromEntries(header.map((name, column) => [name, record[column]])), origin };
        continue;
      }
      const fault = new UserError(
        `${file.name}:${line}: found ${record.length} values; expected ${header.length}, as the header has (${header.join(', ')})`,
      );
      yield { fault, origin };
    }
  } catch (error) {
    throw fileFault(file, 'not readable as CSV', error);
  } finally {
    source.destroy();
  }
}

function checkHeader(names: string[], file: DataFile): string[] {
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined || names.includes('')) {
    const found = twice === undefined || twice === '' ? 'a column without a name' : `the column ${twice} twice`;
    throw new UserError(
      `${file.name}:1: found ${found} in the header (${names.join(', ')}); expected a line of different names`,
    );
  }
  return names;
}
