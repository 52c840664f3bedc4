// SPDX-License-Identifier: Apache-2.0
/** Event files byte by byte: framing, checksums, and what each kind of summary holds. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { UserError } from '../../src/errors.ts';
import { crc32c, maskedCrc32c } from '../../src/logging/tensorboard/crc32c.ts';
import { createEventWriter } from '../../src/logging/tensorboard/event_writer.ts';
import { protoWriter } from '../../src/logging/tensorboard/protobuf.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { all, decodeMessage, number, readEventFile, readEventFolder, scalarsOf } from './read_event_file.ts';

describe('crc32c', () => {
  it('gives the values of RFC 3720, appendix B.4', () => {
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
    expect(crc32c(new Uint8Array(32).fill(255))).toBe(0x62a8ab43);
    expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
    expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283);
    expect(crc32c(new Uint8Array())).toBe(0);
  });

  it('masks as TFRecord does', () => {
    // The length of the first record of any event file with version 2 alone: 24 bytes.
    expect(maskedCrc32c(Uint8Array.of(24, 0, 0, 0, 0, 0, 0, 0))).toBe(0x224b7fa3);
  });
});

describe('protoWriter', () => {
  it('writes the examples of the encoding guide', () => {
    expect(protoWriter().integer(1, 150).finish()).toEqual(Buffer.from('089601', 'hex'));
    expect(protoWriter().string(2, 'testing').finish()).toEqual(Buffer.from('120774657374696e67', 'hex'));
    const inner = protoWriter().integer(1, 150).finish();
    expect(protoWriter().bytes(3, inner).finish()).toEqual(Buffer.from('1a03089601', 'hex'));
    expect(
      protoWriter()
        .integer(16, 2 ** 40)
        .finish(),
    ).toEqual(Buffer.from('8001808080808020', 'hex'));
  });

  it('does not write a number that is no varint', () => {
    expect(() => protoWriter().integer(1, 1.5)).toThrow('1.5');
    expect(() => protoWriter().integer(1, -1)).toThrow('-1');
  });
});

describe('an event file', () => {
  it('begins with the version, and has a name that TensorBoard finds', () => {
    const folder = join(temporaryFolder(), 'deep', 'tensorboard');
    createEventWriter(folder).close();
    expect(readdirSync(folder)).toEqual([expect.stringMatching(/^events\.out\.tfevents\.\d{10}\..+\.\d+\.\d+$/)]);
    const [first, ...rest] = readEventFolder(folder);
    expect(first).toMatchObject({ step: 0, fileVersion: 'brain.Event:2', values: [] });
    expect(Math.abs((first?.wallTime ?? 0) - Date.now() / 1000)).toBeLessThan(60);
    expect(rest).toEqual([]);
  });

  it('has each call in it at once', () => {
    const folder = temporaryFolder();
    const writer = createEventWriter(folder);
    writer.scalars(10, { 'train/loss': 3.25, 'train/learning_rate': 0.002 });
    expect(scalarsOf(readEventFolder(folder), 'train/loss')).toEqual([[10, 3.25]]);
    writer.scalars(20, { 'train/loss': Number.NaN });
    expect(scalarsOf(readEventFolder(folder), 'train/loss')).toEqual([
      [10, 3.25],
      [20, Number.NaN],
    ]);
    expect(scalarsOf(readEventFolder(folder), 'train/learning_rate')).toEqual([[10, Math.fround(0.002)]]);
    writer.close();
  });

  it('holds texts, in any script', () => {
    const folder = temporaryFolder();
    const writer = createEventWriter(folder);
    const text = 'Définition — 定義\n\n    code 🜚';
    writer.text(7, 'samples/1', text);
    writer.close();
    const event = readEventFolder(folder).at(-1);
    expect(event).toMatchObject({ step: 7, values: [{ tag: 'samples/1', plugin: 'text', text }] });
  });

  it('holds histograms whose buckets count every value that is finite', () => {
    const folder = temporaryFolder();
    const writer = createEventWriter(folder);
    writer.histogram(1, 'h', [1, 2, 2, 4, Number.NaN, Number.POSITIVE_INFINITY]);
    writer.histogram(2, 'h', Float32Array.of(5, 5, 5));
    writer.histogram(3, 'h', [Number.NaN]);
    writer.close();
    const [several, equal, none] = readEventFolder(folder)
      .slice(1)
      .map(({ values }) => values[0]?.histogram);
    expect(several).toMatchObject({ min: 1, max: 4, num: 4, sum: 9, squares: 25 });
    expect(several?.limits).toHaveLength(30);
    expect(several?.limits.at(-1)).toBe(4);
    expect(several?.counts.flatMap((count, i) => (count > 0 ? [[i, count]] : []))).toEqual([
      [0, 1],
      [10, 2],
      [29, 1],
    ]);
    expect(equal).toEqual({ min: 5, max: 5, num: 3, sum: 15, squares: 75, limits: [5], counts: [3] });
    expect(none).toBeUndefined();
  });

  it('holds settings and how the run ended, as the hparams plugin stores them', () => {
    const folder = temporaryFolder();
    const writer = createEventWriter(folder);
    writer.hparams({ learning_rate: 0.002, optim: 'adamw', shuffle: true }, ['train/loss']);
    writer.close('failure');
    const values = readEventFolder(folder).flatMap((event) => event.values);
    expect(values.map(({ tag, plugin }) => [tag, plugin])).toEqual([
      ['_hparams_/experiment', 'hparams'],
      ['_hparams_/session_start_info', 'hparams'],
      ['_hparams_/session_end_info', 'hparams'],
    ]);
    const [experiment, start, end] = values.map(({ content }, i) =>
      decodeMessage(all(decodeMessage(content as Buffer), 2 + i)[0] as Buffer),
    );
    const infos = all(experiment ?? [], 4).map(decodeMessage);
    expect(infos.map((info) => [String(all(info, 1)[0]), number(info, 4)])).toEqual([
      ['learning_rate', 3],
      ['optim', 1],
      ['shuffle', 2],
    ]);
    const hparams = all(start ?? [], 1).map(decodeMessage);
    const stored = hparams.map((entry) => decodeMessage(all(entry, 2)[0] as Buffer)[0]);
    expect(stored[0]).toEqual({ field: 2, value: Buffer.from(Float64Array.of(0.002).buffer) });
    expect(stored[1]).toEqual({ field: 3, value: Buffer.from('adamw') });
    expect(stored[2]).toEqual({ field: 4, value: 1 });
    expect(number(end ?? [], 1)).toBe(2);
  });

  it('of a resumed run tells readers where to forget the earlier one', () => {
    const folder = temporaryFolder();
    createEventWriter(folder, { purgeStep: 41 }).close();
    expect(readEventFolder(folder)[1]).toMatchObject({ step: 41, sessionStatus: 1 });
  });

  it('is never that of another writer', () => {
    const folder = temporaryFolder();
    const writers = [createEventWriter(folder), createEventWriter(folder)];
    for (const writer of writers) writer.close();
    expect(readdirSync(folder)).toHaveLength(2);
  });

  it('that is damaged fails the reader of these tests', () => {
    const folder = temporaryFolder();
    const writer = createEventWriter(folder);
    writer.scalars(1, { x: 1 });
    writer.close();
    const path = join(folder, String(readdirSync(folder)[0]));
    const bytes = readFileSync(path);
    bytes[bytes.length - 6] = (bytes[bytes.length - 6] as number) ^ 1;
    writeFileSync(path, bytes);
    expect(() => readEventFile(path)).toThrow(/checksum/);
  });

  it('that cannot be written is a UserError with the path', () => {
    const folder = join(temporaryFolder(), 'file');
    writeFileSync(folder, '');
    expect(() => createEventWriter(folder)).toThrow(UserError);
    expect(() => createEventWriter(folder)).toThrow(/cannot write .*tfevents/);
  });
});
