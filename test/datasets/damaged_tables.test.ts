// SPDX-License-Identifier: Apache-2.0
/** Arrow and Parquet whose sizes, counts and offsets are not what they were: one line that says where, and neither hang nor crash. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Table, tableToIPC, vectorFromArray } from 'apache-arrow';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UserError } from '../../src/errors.ts';
import { readAll } from './foreign_files.ts';

const FILES = new URL('files/', import.meta.url).pathname;
let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'mambatune-damaged-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What reading the bytes gives: the number of rows, or the refusal in one line. */
async function outcome(name: string, bytes: Uint8Array): Promise<number | string> {
  writeFileSync(join(folder, name), bytes);
  try {
    return (await readAll(join(folder, name), name)).length;
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    expect(error.message).not.toContain('\n');
    return error.message;
  }
}

describe.each([
  ['stream.arrow', 'arrow'],
  ['lz4.feather', 'arrow'],
  ['snappy.parquet', 'parquet'],
  ['v2.parquet', 'parquet'],
])('%s', (name, extension) => {
  const whole = readFileSync(join(FILES, name));

  it.each([0xffffffff, 0x7fffffff])('with %i for any of its words', async (value) => {
    let refused = 0;
    const words = Math.floor(whole.length / 4);
    for (let word = 0; word < words; word += 29) {
      const bytes = Buffer.from(whole);
      bytes.writeUInt32LE(value, 4 * word);
      if (typeof (await outcome(`x.${extension}`, bytes)) === 'string') refused += 1;
    }
    expect(refused).toBeGreaterThan(words / 290);
  });
});

describe('Arrow', () => {
  const table = new Table({
    text: vectorFromArray(['one', 'two', 'one']),
    ids: vectorFromArray([[1, 2], [3], [4, 5, 6]]),
  });
  const stream = Buffer.from(tableToIPC(table, 'stream'));
  const file = Buffer.from(tableToIPC(table, 'file'));

  it('reads what is whole', async () => {
    expect(await outcome('x.arrow', stream)).toBe(3);
    expect(await outcome('x.arrow', file)).toBe(3);
    const none = new Table(table.schema);
    expect(await outcome('x.arrow', tableToIPC(none, 'stream'))).toBe(0);
    expect(await outcome('x.arrow', tableToIPC(none, 'file'))).toBe(0);
  });

  it('names the byte of a vector that claims more entries than there is room for', async () => {
    const refusals = [];
    for (let at = 0; at + 4 <= stream.length; at += 4) {
      const bytes = Buffer.from(stream);
      bytes.writeUInt32LE(0xfffffff0, at);
      refusals.push(await outcome('x.arrow', bytes));
    }
    for (const what of ['nodes', 'buffers']) {
      expect(refusals).toContainEqual(
        expect.stringMatching(
          new RegExp(`byte \\d+: ${what} of RecordBatch claims 4294967280 entries; there is room for \\d+$`),
        ),
      );
    }
    expect(refusals).toContainEqual(expect.stringMatching(/fields of Schema claims 4294967280 entries/));
  });

  it('refuses offsets beyond the values, naming the column', async () => {
    const at = stream.lastIndexOf(Buffer.from(Int32Array.of(0, 2, 3, 6).buffer));
    expect(at).toBeGreaterThan(0);
    const bytes = Buffer.from(stream);
    bytes.writeInt32LE(2_000_000_000, at + 12);
    expect(await outcome('x.arrow', bytes)).toMatch(
      /^x\.arrow: not readable as Arrow IPC: the batch at byte \d+: column ids has 6 values in its items; expected 2000000000$/,
    );
  });

  it('refuses a footer that lists less than there is', async () => {
    const refusals = [];
    for (let at = file.length - 10 - file.readInt32LE(file.length - 10); at < file.length - 10; at += 4) {
      const bytes = Buffer.from(file);
      bytes.writeUInt32LE(0, at);
      refusals.push(await outcome('x.arrow', bytes));
    }
    expect(refusals).toContainEqual(expect.stringMatching(/the footer lists batches up to byte \d+ alone$/));
  });

  it.each([
    ['cut before its end', file.subarray(0, file.length - 1), /the file does not end with ARROW1; it ends early/],
    ['with an end before its beginning', withEnd(stream), /the stream ends here, \d+ bytes before the end of the file/],
  ])('refuses a file %s', async (_, bytes, message) => {
    expect(await outcome('x.arrow', bytes)).toMatch(message);
  });
});

/** The stream with the mark of its end put before its first message. */
function withEnd(stream: Buffer): Buffer {
  return Buffer.concat([Buffer.from([255, 255, 255, 255, 0, 0, 0, 0]), stream]);
}

describe('Parquet', () => {
  it('names the byte and column of a page that claims what it has not', async () => {
    const whole = readFileSync(join(FILES, 'snappy.parquet'));
    const refusals: (number | string)[] = [];
    for (let at = 4; at < 200; at++) {
      const bytes = Buffer.from(whole);
      bytes[at] = 0xff;
      refusals.push(await outcome('x.parquet', bytes));
    }
    expect(refusals).toContainEqual(
      expect.stringMatching(/^x\.parquet: rows 1 to \d+ cannot be read as Parquet: byte \d+, column [\w.]+: /),
    );
  });
});
