// SPDX-License-Identifier: Apache-2.0
/** Readers of every format: files of other programs, broken files, and memory that does not grow with the file. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadDataset } from '../../datasets/index.ts';
import { readTextFile, type SampleBy } from '../../datasets/readers/text.ts';
import { readAll, testForeignFiles, valuesOf } from './foreign_files.ts';

const FILES = new URL('files/', import.meta.url).pathname;
let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'mambatune-readers-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function write(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

async function messageOf(promise: Promise<unknown>): Promise<string> {
  const error: unknown = await promise.then(
    () => 'nothing was refused',
    (reason: unknown) => reason,
  );
  expect(error).toMatchObject({ name: 'UserError' });
  return (error as Error).message.replaceAll(`${folder}/`, '');
}

describe('files of pyarrow and pandas', () => testForeignFiles(() => FILES));

describe('CSV', () => {
  it('takes quotes, blank lines, spaces and a last line without end, and keeps the lines', async () => {
    const path = write('odd.csv', '\ufeff"a", b\r\n"1 ""x""\r\n2",y\r\n\r\n,z');
    expect(await readAll(path, 'odd.csv')).toEqual([
      { value: { a: '1 "x"\r\n2', ' b': 'y' }, origin: { file: 'odd.csv', line: 2 } },
      { value: { a: '', ' b': 'z' }, origin: { file: 'odd.csv', line: 5 } },
    ]);
  });

  it('names the line of a row with too few or too many values, and goes on', async () => {
    const path = write('uneven.csv', 'text,label\na,1\nb\nc,2,3\nd,4\n');
    expect(await messageOf(loadDataset(path))).toBe(
      'uneven.csv:3: found 1 values; expected 2, as the header has (text, label)',
    );
    const messages: string[] = [];
    const { records } = await loadDataset(path, { onBadRecord: 'skip', onMessage: (line) => messages.push(line) });
    expect(records.map((record) => record.kind === 'text' && record.text)).toEqual(['a', 'd']);
    expect(messages.map((line) => line.replaceAll(`${folder}/`, ''))).toEqual([
      'uneven.csv: 2 bad records were left out (on_bad_record: skip). The first: uneven.csv:3: found 1 values; expected 2, as the header has (text, label)',
    ]);
  });

  it.each([
    ['twice.csv', 'a,a\n1,2\n', 'twice.csv:1: found the column a twice in the header (a, a); expected'],
    ['unnamed.csv', 'a,\n1,2\n', 'unnamed.csv:1: found a column without a name in the header'],
    ['quote.csv', 'text\n"open\nfor ever\n', 'quote.csv: not readable as CSV: '],
    ['latin1.csv', Buffer.from('text\n\xe9\n', 'latin1'), 'latin1.csv: not UTF-8 text; save it as UTF-8'],
    [
      'other.csv',
      'quote,author\na,b\n',
      "other.csv:2: the record's fields are quote, author; expected text, or prompt",
    ],
    ['gone.csv.gz', gzipSync('text\na\n').subarray(0, 15), 'gone.csv.gz: damaged or incomplete gzip file: '],
    ['plain.csv.gz', 'text\na\n', 'plain.csv.gz: damaged or incomplete gzip file: '],
  ])('refuses %s', async (name, content, message) => {
    expect(await messageOf(loadDataset(write(name, content)))).toContain(message);
  });
});

describe('JSON', () => {
  it('is an array of records, or JSON Lines under this name', async () => {
    const array = write('array.json', ' [\n{"text": "a"},\n{"text": "b"}]');
    expect((await readAll(array, 'array.json'))[1]).toEqual({
      value: { text: 'b' },
      origin: { file: 'array.json', row: 2 },
    });
    expect(await valuesOf(write('lines.json', '\n{"text": "a"}\n{"text": "b"}\n'))).toHaveLength(2);
    expect(await messageOf(loadDataset(write('bad.json', '[\n{"text": "a"},\n{"text": }]')))).toMatch(
      /^bad\.json:3:10: this is not valid JSON/,
    );
    expect(await messageOf(loadDataset(write('item.json', '[{"text": "a"}, 5]')))).toBe(
      'item.json: row 2: found 5; expected a JSON object, such as {"text": "…"}',
    );
  });
});

describe('text', () => {
  const path = () => write('prose.txt', '\ufeffone\r\ntwo\n\n  \nthree\nfour\n\n\n');
  const samples = async (sampleBy: SampleBy) => {
    const rows = [];
    for await (const row of readTextFile({ path: path(), name: 'prose.txt' }, sampleBy)) rows.push(row);
    return rows.map((row) => [
      'value' in row && (row.value as { text: string }).text,
      'line' in row.origin && row.origin.line,
    ]);
  };

  it('by line, paragraph or document', async () => {
    expect(await samples('line')).toEqual([
      ['one', 1],
      ['two', 2],
      ['three', 5],
      ['four', 6],
    ]);
    expect(await samples('paragraph')).toEqual([
      ['one\ntwo', 1],
      ['three\nfour', 5],
    ]);
    expect(await samples('document')).toEqual([['one\r\ntwo\n\n  \nthree\nfour\n\n\n', 1]]);
    const { records } = await loadDataset(path(), { sampleBy: 'paragraph' });
    expect(records).toHaveLength(2);
  });
});

describe('damaged tables', () => {
  it.each([
    ['none.parquet', 0.5, 'not readable as Parquet'],
    ['stream.arrow', 0.02, 'not readable as Arrow IPC'],
    ['lz4.feather', 0.5, 'Arrow IPC'],
    ['lines.jsonl.zst', 0.5, 'damaged or incomplete zstd file'],
  ])('%s, cut off', async (name, share, message) => {
    const bytes = readFileSync(join(FILES, name));
    const path = write(`cut_${name}`, bytes.subarray(0, Math.floor(bytes.length * share)));
    expect(await messageOf(loadDataset(path, { textField: 'text' }))).toContain(`cut_${name}: `);
    expect(await messageOf(loadDataset(path, { textField: 'text' }))).toContain(message);
  });

  it('that are something else', async () => {
    for (const name of ['no.parquet', 'no.arrow', 'no.feather', 'empty.arrow', 'empty.parquet']) {
      const path = write(name, name.startsWith('no') ? 'this is a text, long enough to be read as a header' : '');
      expect(await messageOf(loadDataset(path))).toMatch(/^\w+\.\w+: (not readable as|the dataset is empty)/);
    }
  });

  it('name the row of a value that is missing', async () => {
    expect(await messageOf(loadDataset(join(FILES, 'zstd.parquet'), { textField: 'text' }))).toMatch(
      /zstd\.parquet: row 6: field text is null; expected a string$/,
    );
    expect(await messageOf(loadDataset(join(FILES, 'zstd.parquet'), { textField: 'txt' }))).toMatch(
      /zstd\.parquet: row 1: field txt is missing; the record's fields are text, number, score, flag, ids, meta, messages\./,
    );
    const { records } = await loadDataset(join(FILES, 'zstd.parquet'), { textField: 'meta.lang' });
    expect(records.map((record) => record.kind === 'text' && record.text).slice(0, 3)).toEqual(['en', 'de', 'en']);
  });
});

describe('a file larger than the memory that reads it', () => {
  /** The last line that a program prints, and the most memory it had, in MiB. */
  const measure = (script: string, args: string[]): [result: string, mebibytes: number] => {
    const program = `${script}\nconsole.log(process.resourceUsage().maxRSS / 1024);`;
    const heap = '--max-old-space-size=96';
    const output = execFileSync(process.execPath, [heap, '--input-type=module', '-e', program, ...args], {
      encoding: 'utf8',
    });
    const [result = '', mebibytes] = output.trim().split('\n').slice(-2);
    return [result, Number(mebibytes)];
  };
  const datasets = JSON.stringify(new URL('../../dist/datasets/index.js', import.meta.url).href);

  it('is read as a stream: no more memory for 96 MB than for 12 MB', () => {
    const line = `${JSON.stringify({ text: 'all work and no play makes a dull record '.repeat(60) })}\n`;
    const small = write('small.jsonl', line.repeat(5_000));
    const large = write('large.jsonl', line.repeat(40_000));
    const script = `
      import { readRecords } from ${datasets};
      let records = 0;
      for await (const read of readRecords({ files: [{ path: process.argv[1], name: 'x' }], readOptions: {} })) records += 'record' in read;
      console.log(records);`;
    const [fewRecords, fewMebibytes] = measure(script, [small]);
    const [manyRecords, manyMebibytes] = measure(script, [large]);
    expect([fewRecords, manyRecords]).toEqual(['5000', '40000']);
    expect(manyMebibytes - fewMebibytes).toBeLessThan(40);
  });

  it('is tokenized through the cache and read back in any order without being in memory', () => {
    const ids = Array.from({ length: 600 }, (_, id) => id);
    const line = `${JSON.stringify({ input_ids: ids })}\n`;
    const small = write('few_ids.jsonl', line.repeat(3_000));
    const large = write('many_ids.jsonl', line.repeat(24_000));
    const tokenizer = JSON.stringify(new URL('../../dist/src/tokenizer/tokenizer.js', import.meta.url).href);
    const script = `
      import { loadExamples } from ${datasets};
      import { loadTokenizer } from ${tokenizer};
      const options = { cacheDir: process.argv[2], seed: 0, threads: 1, onMessage: () => {} };
      const { examples } = await loadExamples({ path: process.argv[1] }, loadTokenizer('models/mamba-5m'), options);
      let sum = 0;
      for (let i = 0; i < examples.length; i++) sum += examples.at((i * 7919) % examples.length).inputIds[599];
      console.log(sum);`;
    const [fewSum, fewMebibytes] = measure(script, [small, join(folder, 'cache')]);
    const [manySum, manyMebibytes] = measure(script, [large, join(folder, 'cache')]);
    expect([fewSum, manySum]).toEqual([String(599 * 3_000), String(599 * 24_000)]);
    // 24,000 x 600 ids and labels are 110 MiB.
    expect(manyMebibytes - fewMebibytes).toBeLessThan(60);
  });
});
