// SPDX-License-Identifier: Apache-2.0
/** The tests of files that pyarrow and pandas wrote (test/parity/data_files.py): those in test/datasets/files, and fresh ones. */
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { formatOf } from '../../datasets/formats.ts';
import type { Row } from '../../datasets/readers/row.ts';

const TEXTS = [
  'plain',
  'ü, “quotes” and "quotes"',
  'two\nlines',
  'crlf\r\nhere',
  '',
  null,
  '🜁 日本語\u2028end',
  ' spaces , ',
];

const ROWS = TEXTS.map((text, index) => ({
  text,
  number: index,
  score: index / 4,
  flag: index % 2 === 0,
  ids: Array.from({ length: index }, (_, id) => id),
  meta: { lang: index % 2 === 1 ? 'de' : 'en', tags: [`t${index}`, null] },
  messages: [
    { role: 'user', content: `q${index}` },
    { role: 'assistant', content: text ?? '' },
  ],
}));

export async function readAll(path: string, name = path): Promise<Row[]> {
  const rows: Row[] = [];
  for await (const row of formatOf(path)?.read({ path, name }, 'line') ?? []) rows.push(row);
  return rows;
}

export async function valuesOf(path: string): Promise<unknown[]> {
  return (await readAll(path)).map((row) => ('value' in row ? row.value : row.fault));
}

/** @param folder gives it when the tests run */
export function testForeignFiles(folder: () => string): void {
  it.each([
    'none.parquet',
    'snappy.parquet',
    'gzip.parquet',
    'zstd.parquet',
    'brotli.parquet',
    'lz4.parquet',
    'v2.parquet',
    'uncompressed.feather',
    'lz4.feather',
    'zstd.feather',
    'stream.arrow',
  ])('%s, with nulls, numbers and nested columns', async (name) => {
    const rows = await readAll(join(folder(), name), name);
    expect(rows).toEqual(ROWS.map((value, index) => ({ value, origin: { file: name, row: index + 1 } })));
  });

  it('a table without rows', async () => {
    expect(await readAll(join(folder(), 'empty.parquet'))).toEqual([]);
  });

  it('buffers of LZ4 frames with blocks that reach into one another', async () => {
    const texts = Array.from({ length: 2000 }, (_, i) => ({ text: String(i % 7).repeat(i % 500) }));
    expect(await valuesOf(join(folder(), 'long_lz4.feather'))).toEqual(texts);
  });

  it.each(['pandas.csv', 'pandas_bom_crlf.csv', 'pandas.tsv.gz'])('%s, all values as texts', async (name) => {
    const rows = await readAll(join(folder(), name), name);
    expect(rows.map((row) => 'value' in row && row.value)).toEqual(
      TEXTS.map((text, index) => ({ text: text ?? '', number: String(index) })),
    );
    expect(rows.map(({ origin }) => 'line' in origin && origin.line)).toEqual([2, 3, 4, 6, 8, 9, 10, 11]);
  });

  it('JSON Lines and a JSON array of pandas', async () => {
    const { ids: _, ...first } = ROWS[0] as (typeof ROWS)[number];
    const lines = await valuesOf(join(folder(), 'pandas.jsonl'));
    expect(lines).toHaveLength(8);
    expect(lines[0]).toEqual(first);
    expect(await valuesOf(join(folder(), 'pandas.json.gz'))).toEqual(ROWS);
  });

  it('JSON Lines packed by zstd', async () => {
    const texts = Array.from({ length: 1000 }, (_, i) => ({ text: `line ${i}` }));
    expect(await valuesOf(join(folder(), 'lines.jsonl.zst'))).toEqual(texts);
  });
}
