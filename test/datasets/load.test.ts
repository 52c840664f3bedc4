// SPDX-License-Identifier: Apache-2.0
/** Datasets from files, folders and the Hub: what is read, and what each broken input says. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type DatasetSource, loadDataset, openDatasetSource } from '../../datasets/index.ts';
import { readJsonl } from '../../datasets/readers/jsonl.ts';
import { UserError } from '../../src/errors.ts';
import { startHubServer } from '../helpers/hub_server.ts';

let root: string;

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'mambatune-datasets-'));
});

afterAll(() => rmSync(root, { recursive: true, force: true }));

function write(name: string, content: string | Uint8Array): string {
  const path = join(root, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
  return path;
}

/** The message of the UserError that a promise rejects with, without the test's folder. */
async function errorOf(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => new Error('nothing was refused'),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(UserError);
  return (error as UserError).message.replaceAll(`${root}/`, '');
}

async function texts(path: string, options: Parameters<typeof loadDataset>[1] = {}): Promise<string[]> {
  const { records } = await loadDataset(path, options);
  return records.map((record) => (record.kind === 'text' ? record.text : record.kind));
}

describe('readJsonl', () => {
  it('takes a byte order mark, CRLF, blank lines and a last line without end, and counts all lines', async () => {
    const path = write('odd.jsonl', '\ufeff{"a": 1}\r\n\r\n  \n{"a": "ü\u2028"}\r\n{"a": 3}');
    const lines = [];
    for await (const row of readJsonl({ path, name: 'odd.jsonl' })) lines.push(row);
    expect(lines).toEqual([
      { value: { a: 1 }, origin: { file: 'odd.jsonl', line: 1 } },
      { value: { a: 'ü\u2028' }, origin: { file: 'odd.jsonl', line: 4 } },
      { value: { a: 3 }, origin: { file: 'odd.jsonl', line: 5 } },
    ]);
  });

  it('joins lines and characters that the chunks of the stream cut', async () => {
    const texts = Array.from({ length: 40 }, (_, i) => 'é'.repeat(i * 331) + i);
    const path = write('long.jsonl', texts.map((text) => `${JSON.stringify({ text })}\n`).join(''));
    const read = [];
    for await (const row of readJsonl({ path, name: path }))
      read.push('value' in row ? (row.value as { text: string }).text : row);
    expect(read).toEqual(texts);
  });

  it('refuses a line beyond 64 MiB without reading on', async () => {
    const path = write('huge.jsonl', Buffer.concat([Buffer.from('{"text": "a"}\n'), Buffer.alloc(65 * 2 ** 20, 0x20)]));
    expect(await errorOf(texts(path))).toBe('huge.jsonl:2: the line is longer than 64 MiB');
  });
});

describe('a broken file', () => {
  it('names line 3', async () => {
    const path = write('broken.jsonl', '{"text": "a"}\n{"text": "b"}\n{"text": "c"\n{"text": "d"}\n');
    expect(await errorOf(loadDataset(path))).toMatch(
      /^broken\.jsonl:3: not valid JSON: .+; expected one JSON object per line, such as \{"text": "…"\}$/,
    );
  });

  it.each([
    [
      'empty.jsonl',
      '',
      'empty.jsonl: the dataset is empty; expected at least one record, such as a line with a JSON object {"text": "…"}',
    ],
    [
      'blank.jsonl',
      '\n \r\n\n',
      'blank.jsonl: the dataset is empty; expected at least one record, such as a line with a JSON object {"text": "…"}',
    ],
    [
      'utf16.jsonl',
      Buffer.from('\ufeff{"text": "a"}', 'utf16le'),
      'utf16.jsonl:1: not UTF-8 text; expected a JSON Lines file in UTF-8 (not UTF-16; compressed only as .gz or .zst)',
    ],
    ['latin1.jsonl', Buffer.from('{"text": "a"}\n{"text": "\xe9"}', 'latin1'), 'latin1.jsonl:2: not UTF-8 text'],
    ['array.jsonl', '[\n{"text": "a"}\n]', '(a JSON array over several lines is no JSON Lines file; name it .json)'],
    [
      'value.jsonl',
      '{"text": "a"}\n"b"\n',
      'value.jsonl:2: found a string; expected a JSON object, such as {"text": "…"}',
    ],
    ['null.jsonl', 'null\n', 'null.jsonl:1: found null; expected a JSON object'],
    [
      'other.jsonl',
      '{"quote": "a", "author": "b"}\n',
      "other.jsonl:1: the record's fields are quote, author; expected text, or prompt and completion, or messages, or instruction and output, or input_ids. Set text_field, or prompt_field and completion_field, or messages_field, or instruction_field and output_field, to read other fields",
    ],
    [
      'half.jsonl',
      '{"prompt": "a"}\n',
      "half.jsonl:1: the record's fields are prompt; expected text, or prompt and completion",
    ],
    ['none.jsonl', '{}\n', 'none.jsonl:1: the record has no fields; expected text'],
    [
      'proto.jsonl',
      '{"__proto__": {"text": "a"}}\n',
      "proto.jsonl:1: the record's fields are __proto__; expected text",
    ],
    [
      'mixed.jsonl',
      '{"text": "a"}\n{"prompt": "a", "completion": "b"}\n',
      "mixed.jsonl:2: field text is missing; the record's fields are prompt, completion. Every record of a dataset has the same fields",
    ],
    [
      'both.jsonl',
      '{"text": "a", "prompt": "a", "completion": "b"}\n',
      'which can be read as prompt-completion and as text. Set text_field, or prompt_field and completion_field, or messages_field, or instruction_field and output_field, to say how',
    ],
    ['number.jsonl', '{"text": "a"}\n{"text": 5}\n', 'number.jsonl:2: field text is 5; expected a string'],
    [
      'chat.jsonl',
      '{"prompt": [{"role": "user"}], "completion": "b"}\n',
      'chat.jsonl:1: field prompt is an array; expected a string',
    ],
    ['ids.jsonl', '{"input_ids": "1 2"}\n', 'ids.jsonl:1: field input_ids is a string; expected an array of token ids'],
    ['negative.jsonl', '{"input_ids": [1, -100]}\n', 'negative.jsonl:1: input_ids[1] is -100; expected a token id'],
    ['fraction.jsonl', '{"input_ids": [1, 2.5]}\n', 'fraction.jsonl:1: input_ids[1] is 2.5; expected a token id'],
    ['large.jsonl', '{"input_ids": [2147483648]}\n', 'large.jsonl:1: input_ids[0] is 2147483648; expected a token id'],
    [
      'label.jsonl',
      '{"input_ids": [1, 2], "labels": [-100, -1]}\n',
      'label.jsonl:1: labels[1] is -1; expected a token id, or -100 for no loss',
    ],
    [
      'short.jsonl',
      '{"input_ids": [1, 2], "labels": [1]}\n',
      'short.jsonl:1: found 2 input_ids and 1 labels; expected as many of both',
    ],
  ])('%s', async (name, content, message) => {
    expect(await errorOf(loadDataset(write(name, content)))).toContain(message);
  });

  it('that is not there', async () => {
    expect(await errorOf(loadDataset('no/such/data.jsonl'))).toBe(
      'there is no file or folder no/such/data.jsonl, and it is no Hub dataset id (owner/name)',
    );
    const source: DatasetSource = { path: join(root, 'gone.jsonl') };
    expect(await errorOf(openDatasetSource(source))).toMatch(/^cannot read gone\.jsonl: there is no such file/);
  });
});

describe('records', () => {
  it('of each kind, with their lines', async () => {
    const pairs = await loadDataset(write('pairs.jsonl', '\n{"prompt": "a", "completion": "b", "id": 7}\n'));
    expect(pairs.records).toEqual([
      { kind: 'prompt-completion', prompt: 'a', completion: 'b', file: join(root, 'pairs.jsonl'), line: 2 },
    ]);
    const ids = await loadDataset(
      write('tokens.jsonl', '{"input_ids": [5, 6], "labels": [-100, 6]}\n{"input_ids": [7]}\n'),
    );
    expect(ids.records).toMatchObject([
      { kind: 'input-ids', inputIds: Int32Array.of(5, 6), labels: Int32Array.of(-100, 6) },
      { kind: 'input-ids', inputIds: Int32Array.of(7) },
    ]);
    expect(ids.records[1]).not.toHaveProperty('labels');
  });

  it('of other field names, which also settle the kind', async () => {
    const path = write('fields.jsonl', '{"text": "t", "prompt": "p", "completion": "c", "answer": "a"}\n');
    expect(await texts(path, { textField: 'answer' })).toEqual(['a']);
    expect(await texts(path, { textField: 'text' })).toEqual(['t']);
    const { records } = await loadDataset(path, { completionField: 'answer' });
    expect(records).toMatchObject([{ prompt: 'p', completion: 'a' }]);
    expect(await errorOf(loadDataset(path, { textField: 'quote' }))).toBe(
      "fields.jsonl:1: field quote is missing; the record's fields are text, prompt, completion, answer. Every record of a dataset has the same fields",
    );
  });
});

describe('a folder', () => {
  it('gives a split by file names', async () => {
    const line = (text: string) => `${JSON.stringify({ text })}\n`;
    write('splits/train.jsonl', line('train'));
    write('splits/test.jsonl', line('test'));
    write('splits/README.md', '# no data');
    write('splits/.cache/train.jsonl', line('hidden'));
    const folder = join(root, 'splits');
    expect(await texts(folder)).toEqual(['train']);
    expect(await texts(folder, { split: 'test' })).toEqual(['test']);
    expect((await loadDataset(folder)).name).toBe(join(folder, 'train.jsonl'));
    expect(await errorOf(loadDataset(folder, { split: 'validation' }))).toBe(
      'splits: found no data file of split validation; expected a name such as validation.jsonl. Its data files are: test.jsonl, train.jsonl',
    );
  });

  it('joins shards in the order of their names', async () => {
    write('shards/data/train-00001-of-00002.jsonl', '{"text": "b"}\n');
    write('shards/data/train-00000-of-00002.jsonl', '{"text": "a"}\n');
    const folder = join(root, 'shards');
    expect(await texts(folder)).toEqual(['a', 'b']);
    expect((await loadDataset(folder)).name).toBe(`${folder} (train)`);
  });

  it('takes the files of a glob in the order of their names, whatever words are in them', async () => {
    write('glob/part-2-test.jsonl', '{"text": "b"}\n');
    write('glob/part-1-train.jsonl', '{"text": "a"}\n');
    write('glob/deep/part-3.jsonl', '{"text": "c"}\n');
    write('glob/other.jsonl', '{"text": "x"}\n');
    const glob = join(root, 'glob', 'part-*.jsonl');
    expect(await texts(glob)).toEqual(['a', 'b']);
    expect((await loadDataset(glob)).name).toBe(glob);
    expect(await texts(join(root, 'glob', '**', 'part-{2,3}*.jsonl'))).toEqual(['c', 'b']);
    const { files } = await openDatasetSource({ path: glob });
    expect(files.map(({ name }) => name)).toEqual(
      ['part-1-train.jsonl', 'part-2-test.jsonl'].map((name) => join(root, 'glob', name)),
    );
    expect(await errorOf(loadDataset(join(root, 'glob', '*.csv')))).toBe('glob/*.csv: no file has such a name');
    expect(await errorOf(loadDataset(glob, { split: 'train' }))).toMatch(
      /found split train, but a glob names its files itself/,
    );
    write('glob/part-4.png', 'x');
    expect(await errorOf(loadDataset(join(root, 'glob', 'part-*')))).toMatch(/part-4\.png: found no known format/);
  });

  it('takes a file whose name has the signs of a glob as that file', async () => {
    write('signs/[a].jsonl', '{"text": "bracket"}\n');
    write('signs/a.jsonl', '{"text": "plain"}\n');
    expect(await texts(join(root, 'signs', '[a].jsonl'))).toEqual(['bracket']);
  });

  it('refuses what only other sources have', async () => {
    const file = write('file.jsonl', '{"text": "a"}\n');
    expect(await errorOf(loadDataset(file, { split: 'train' }))).toMatch(/found split train, but this is a file/);
    expect(await errorOf(loadDataset(file, { revision: 'v2' }))).toMatch(/only a Hub dataset has revisions/);
    mkdirSync(join(root, 'bare'), { recursive: true });
    expect(await errorOf(loadDataset(join(root, 'bare')))).toMatch(
      /^bare: found no data file \(\.parquet, \.jsonl, .*\)\. Its files are: none$/,
    );
  });
});

describe('the Hub', () => {
  it('gives quotes.jsonl as train, split files by name, and names what is there when none fits', async () => {
    const hub = await startHubServer({
      'datasets/Abirate/english_quotes': {
        'README.md': '# quotes',
        'quotes.jsonl':
          '{"quote": "“Be yourself.”", "author": "Oscar Wilde", "tags": ["be-yourself"]}\n{"quote": "b"}\n',
      },
      'datasets/owner/split': {
        'data/train-00000-of-00001.jsonl': '{"text": "train"}\n',
        'data/test-00000-of-00001.jsonl': '{"text": "test"}\nbroken\n',
      },
      'datasets/owner/pictures': { 'README.md': '', 'train.png': '' },
    });
    try {
      const at = { hubUrl: hub.url, cacheDir: join(root, 'cache') };
      expect(await texts('Abirate/english_quotes', { ...at, split: 'train', textField: 'quote' })).toEqual([
        '“Be yourself.”',
        'b',
      ]);
      const { name } = await openDatasetSource({ hub: 'Abirate/english_quotes', text_field: 'quote' }, at);
      expect(name).toBe('Abirate/english_quotes (train)');
      expect(await texts('owner/split', at)).toEqual(['train']);
      expect(await errorOf(loadDataset('owner/split', { ...at, split: 'test' }))).toMatch(
        /^owner\/split\/data\/test-00000-of-00001\.jsonl:2: not valid JSON/,
      );
      expect(await errorOf(loadDataset('owner/pictures', at))).toMatch(
        /^owner\/pictures: found no data file \(.*\)\. Its files are: README\.md, train\.png$/,
      );
      expect(await errorOf(loadDataset('Abirate/english_quotes', at))).toMatch(
        /^Abirate\/english_quotes\/quotes\.jsonl:1: the record's fields are quote, author, tags; expected text/,
      );
      expect(hub.requests.some((request) => JSON.stringify(request).includes('README.md'))).toBe(false);
    } finally {
      await hub.close();
    }
  });
});
