// SPDX-License-Identifier: Apache-2.0
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openSafetensors } from '../../src/checkpoint/safetensors.ts';
import { type WritableDtype, writeSafetensors } from '../../src/checkpoint/safetensors_writer.ts';
import { rowChunks } from '../../src/checkpoint/tensor_source.ts';
import { UserError } from '../../src/errors.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

/** A safetensors file from its literal header and data. */
function literalFile(
  header: string,
  data: Uint8Array | number = 0,
  headerLength = BigInt(Buffer.byteLength(header)),
): string {
  const path = join(temporaryFolder(), 'x.safetensors');
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(headerLength);
  writeFileSync(
    path,
    Buffer.concat([prefix, Buffer.from(header), typeof data === 'number' ? Buffer.alloc(data) : data]),
  );
  return path;
}

function bytesFile(bytes: number[]): string {
  const path = join(temporaryFolder(), 'x.safetensors');
  writeFileSync(path, Buffer.from(bytes));
  return path;
}

/** Opening fails with a UserError that names the file and says `message`. */
function expectRefused(path: string, message: string): void {
  expect(() => openSafetensors(path)).toThrow(UserError);
  expect(() => openSafetensors(path)).toThrow(`${path}: `);
  expect(() => openSafetensors(path)).toThrow(message);
}

const entry = (dtype: string, shape: unknown, offsets: unknown) =>
  JSON.stringify({ dtype, shape, data_offsets: offsets });

test('reads every dtype it says it reads', () => {
  const header = `{"__metadata__":{"format":"pt"},"d":${entry('F64', [1], [0, 8])},"l":${entry('I64', [2], [8, 24])},"f":${entry('F32', [2, 1], [24, 32])},"i":${entry('I32', [1], [32, 36])},"b":${entry('BF16', [2], [36, 40])},"h":${entry('F16', [3], [40, 46])},"e":${entry('F32', [0], [46, 46])}}`;
  const data = Buffer.alloc(46);
  data.writeDoubleLE(-2.5, 0);
  data.writeBigInt64LE(-1n, 8);
  data.writeBigInt64LE(2147483647n, 16);
  data.writeFloatLE(0.1, 24);
  data.writeFloatLE(Number.NEGATIVE_INFINITY, 28);
  data.writeInt32LE(-7, 32);
  data.writeUInt16LE(0x3f80, 36);
  data.writeUInt16LE(0xc040, 38);
  data.writeUInt16LE(0x3c00, 40);
  data.writeUInt16LE(0x8001, 42);
  data.writeUInt16LE(0x7bff, 44);
  const source = openSafetensors(literalFile(header, data));
  expect(source.metadata).toEqual({ format: 'pt' });
  expect(source.entries.get('f')).toMatchObject({ name: 'f', dtype: 'F32', shape: [2, 1], byteLength: 8 });
  expect([...source.readFloat32('d')]).toEqual([-2.5]);
  expect([...source.readFloat32('f')]).toEqual([Math.fround(0.1), Number.NEGATIVE_INFINITY]);
  expect([...source.readFloat32('b')]).toEqual([1, -3]);
  expect([...source.readFloat32('h')]).toEqual([1, -(2 ** -24), 65504]);
  expect([...source.readFloat32('e')]).toEqual([]);
  expect([...source.readInt32('l')]).toEqual([-1, 2147483647]);
  expect([...source.readInt32('i')]).toEqual([-7]);
  expect(() => source.readFloat32('i')).toThrow(
    'tensor i is stored as I32; expected a float tensor (F32, BF16, F16 or F64).',
  );
  expect(() => source.readInt32('f')).toThrow('tensor f is stored as F32; expected an integer tensor (I32 or I64).');
  expect(() => source.readFloat32('nope')).toThrow('there is no tensor nope in this file.');
  source.close();
});

test('reads some rows of a tensor', () => {
  const path = join(temporaryFolder(), 'rows.safetensors');
  const data = Float32Array.from({ length: 12 }, (_, i) => i);
  writeSafetensors(path, [
    { name: 'a', shape: [4, 3], dtype: 'F32', data: () => data },
    { name: 'b', shape: [4, 1, 3], dtype: 'BF16', data: () => data },
  ]);
  const source = openSafetensors(path);
  for (const name of ['a', 'b']) {
    expect([...source.readFloat32(name, { start: 1, count: 2 })]).toEqual([3, 4, 5, 6, 7, 8]);
    expect([...source.readFloat32(name, { start: 3, count: 1 })]).toEqual([9, 10, 11]);
    expect(source.readFloat32(name, { start: 4, count: 0 })).toHaveLength(0);
    expect(() => source.readFloat32(name, { start: 3, count: 2 })).toThrow(
      new RangeError(`${name} has 4 rows; asked for 2 from 3`),
    );
  }
  source.close();
});

test('divides a tensor into runs of rows of 32 MiB in float32', () => {
  expect([...rowChunks([5, 3])]).toEqual([{ start: 0, count: 5 }]);
  expect([...rowChunks([10, 4 << 20])]).toEqual([
    { start: 0, count: 2 },
    { start: 2, count: 2 },
    { start: 4, count: 2 },
    { start: 6, count: 2 },
    { start: 8, count: 2 },
  ]);
  expect([...rowChunks([2, 1 << 24])]).toEqual([
    { start: 0, count: 1 },
    { start: 1, count: 1 },
  ]);
});

test('values given in parts make the same file', () => {
  const whole = Float32Array.from({ length: 12 }, (_, i) => i / 7);
  const parts = () => [whole.subarray(0, 5), whole.subarray(5, 5), whole.subarray(5)];
  const write = (name: string, data: () => Float32Array | Float32Array[]) => {
    const path = join(temporaryFolder(), name);
    writeSafetensors(path, [{ name: 'x', shape: [4, 3], dtype: 'F16', data }]);
    return readFileSync(path);
  };
  expect(write('parts', parts).equals(write('whole', () => whole))).toBe(true);
  expect(() => write('short', () => parts().slice(1))).toThrow(
    new RangeError('x: 7 values for shape [4,3], which takes 12'),
  );
});

test.each([2147483648n, -2147483649n])('an I64 of %s does not fit', (value) => {
  const data = Buffer.alloc(16);
  data.writeBigInt64LE(value, 8);
  const source = openSafetensors(literalFile(`{"x":${entry('I64', [2], [0, 16])}}`, data));
  expect(() => source.readInt32('x')).toThrow(`tensor x: element 1 is ${value}, which does not fit 32 bits.`);
  source.close();
});

test('a file too short for a header length', () => {
  expectRefused(
    bytesFile([1, 2, 3]),
    'this is no safetensors file: it has 3 bytes, and the length of its header alone takes 8.',
  );
});

test('an oversized header length', () => {
  expectRefused(
    literalFile('{}', 0, 0xffff_ffff_ffff_ffffn),
    'bytes 0 to 8 give a header of 18446744073709551615 bytes, and safetensors allows 100000000.',
  );
  expectRefused(literalFile('{}', 0, 100_000_001n), 'give a header of 100000001 bytes');
});

test('a header that ends behind the file', () => {
  expectRefused(
    literalFile('{}', 0, 100n),
    'the header should end at byte 108, but the file ends at byte 10. It is truncated: fetch it again.',
  );
});

test('no header at all', () => {
  expectRefused(literalFile(''), 'byte 8 should be the "{" that opens the header; found an empty header.');
});

test('another kind of file', () => {
  expectRefused(literalFile('[]'), 'byte 8 should be the "{" that opens the header; found 0x5b.');
});

test('a header that is not UTF-8', () => {
  const header = [0x7b, 0x22, 0xff, 0x22, 0x7d];
  expectRefused(bytesFile([5, 0, 0, 0, 0, 0, 0, 0, ...header]), 'the header (bytes 8 to 13) is not UTF-8 text.');
});

test('a header that is not JSON, with the byte', () => {
  expectRefused(literalFile('{"é":1,}'), 'the header is wrong at byte 16: expected a key in double quotes');
});

test('a tensor that stands twice', () => {
  const item = entry('F32', [1], [0, 4]);
  expectRefused(literalFile(`{"a":${item},"a":${item}}`, 4), 'the key "a" stands twice');
});

test.each([
  ['an unknown dtype', entry('F33', [1], [0, 4]), 'tensor a: dtype "F33" is not one of BOOL, U8'],
  ['a dtype from the prototype', entry('constructor', [1], [0, 4]), 'tensor a: dtype "constructor" is not one of'],
  ['a negative size', entry('F32', [-1], [0, 4]), 'tensor a: shape [-1] should be a list of whole numbers from 0.'],
  ['a broken size', entry('F32', [0.5], [0, 4]), 'tensor a: shape [0.5] should be'],
  ['no shape', '{"dtype":"F32","data_offsets":[0,4]}', 'tensor a: shape undefined should be'],
  ['one offset', entry('F32', [1], [0]), 'tensor a: data_offsets [0] should be two whole numbers from 0.'],
  ['a negative offset', entry('F32', [1], [-4, 0]), 'tensor a: data_offsets [-4,0] should be two'],
  [
    'an offset over 2^53',
    '{"dtype":"F32","shape":[1],"data_offsets":[0,9007199254740993]}',
    'should be two whole numbers',
  ],
  ['offsets in the wrong order', entry('F32', [1], [4, 0]), 'tensor a: data_offsets [4,0] end before they begin.'],
  ['a size mismatch', entry('F32', [2], [0, 4]), 'tensor a: F32 [2] takes 8 bytes, but data_offsets [0,4] hold 4.'],
  ['a shape that overflows', entry('F32', [2 ** 40, 2 ** 40], [0, 4]), 'takes 4.835703278458517e+24 bytes'],
  ['no object', '3', 'tensor a: its header entry should be an object with dtype, shape and data_offsets.'],
])('%s', (_, item, message) => {
  expectRefused(literalFile(`{"a":${item}}`, 4), message);
});

test('truncated data', () => {
  const path = literalFile(`{"a":${entry('F32', [2], [0, 8])}}`, 4);
  const size = readFileSync(path).length;
  expectRefused(
    path,
    `tensor a should be at bytes ${size - 4} to ${size + 4}, but the file ends at byte ${size}. It is truncated: fetch it again.`,
  );
});

test('overlapping tensors', () => {
  const path = literalFile(`{"a":${entry('F32', [2], [0, 8])},"b":${entry('F32', [1], [4, 8])}}`, 8);
  const start = readFileSync(path).length - 8;
  expectRefused(
    path,
    `tensor b begins at byte ${start + 4}, inside tensor a, which ends at byte ${start + 8}: they overlap.`,
  );
});

test('a hole between tensors, and bytes after the last', () => {
  const hole = literalFile(`{"a":${entry('F32', [1], [0, 4])},"b":${entry('F32', [1], [8, 12])}}`, 12);
  const start = readFileSync(hole).length - 12;
  expectRefused(hole, `bytes ${start + 4} to ${start + 8}, between tensor a and tensor b, belong to no tensor.`);
  const tail = literalFile(`{"a":${entry('F32', [1], [0, 4])}}`, 6);
  const end = readFileSync(tail).length;
  expectRefused(tail, `bytes ${end - 2} to ${end}, after tensor a, belong to no tensor.`);
});

test('metadata that is no text', () => {
  expectRefused(literalFile('{"__metadata__":{"a":1}}'), '__metadata__.a in the header should be a string; found 1.');
  expectRefused(literalFile('{"__metadata__":[]}'), '__metadata__ in the header should be an object of strings.');
});

test('a missing file and a folder', () => {
  const folder = temporaryFolder();
  expect(() => openSafetensors(join(folder, 'x.safetensors'))).toThrow(
    'there is no such file; check the path (ENOENT).',
  );
  expect(() => openSafetensors(folder)).toThrow('this is not a regular file');
});

test.each(['tied', 'rslora', 'dora'])(
  'writes the model of golden %s byte for byte as the reference library did',
  (golden) => {
    const original = join(import.meta.dirname, '../golden', golden, 'model/model.safetensors');
    const source = openSafetensors(original);
    const copy = join(temporaryFolder(), 'copy.safetensors');
    const tensors = [...source.entries.values()].map(({ name, shape }) => ({
      name,
      shape,
      dtype: 'F32' as const,
      data: () => source.readFloat32(name),
    }));
    const bytes = writeSafetensors(copy, tensors.reverse(), source.metadata);
    expect(readFileSync(copy).equals(readFileSync(original))).toBe(true);
    expect(bytes).toBe([...source.entries.values()].reduce((sum, { byteLength }) => sum + byteLength, 0));
    source.close();
  },
);

test('bfloat16 survives the round trip through float32, byte for byte', () => {
  const original = join(import.meta.dirname, '../../models/mamba-5m/model.safetensors');
  const source = openSafetensors(original);
  const copy = join(temporaryFolder(), 'copy.safetensors');
  const tensors = [...source.entries.values()].map(({ name, shape }) => ({
    name,
    shape,
    dtype: 'BF16' as const,
    data: () => source.readFloat32(name),
  }));
  writeSafetensors(copy, tensors, source.metadata);
  expect(readFileSync(copy).equals(readFileSync(original))).toBe(true);
  source.close();
});

function roundTrip(dtype: WritableDtype, values: number[]): number[] {
  const path = join(temporaryFolder(), 'x.safetensors');
  writeSafetensors(path, [{ name: 'x', shape: [values.length], dtype, data: () => Float32Array.from(values) }]);
  const source = openSafetensors(path);
  const out = [...source.readFloat32('x')];
  source.close();
  return out;
}

test('BF16 rounds to nearest, ties to even', () => {
  const step = 2 ** -7;
  expect(roundTrip('BF16', [1 + step / 2, 1 + (3 * step) / 2, 1 + step * 0.51, -1 - step * 0.49, 3.4e38])).toEqual([
    1,
    1 + 2 * step,
    1 + step,
    -1,
    Number.POSITIVE_INFINITY,
  ]);
  expect(roundTrip('BF16', [Number.NaN, Number.NEGATIVE_INFINITY, -0])).toEqual([
    Number.NaN,
    Number.NEGATIVE_INFINITY,
    -0,
  ]);
});

test('F16 rounds to nearest, ties to even, with subnormals and overflow', () => {
  const step = 2 ** -10;
  expect(roundTrip('F16', [1 + step / 2, 1 + (3 * step) / 2, 65519, 65520, -70000])).toEqual([
    1,
    1 + 2 * step,
    65504,
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
  ]);
  const tiny = 2 ** -24;
  expect(roundTrip('F16', [tiny / 2, tiny * 0.51, tiny * 1.5, tiny * 2.5, -(2 ** -14), 1e-30])).toEqual([
    0,
    tiny,
    2 * tiny,
    2 * tiny,
    -(2 ** -14),
    0,
  ]);
  expect(roundTrip('F16', [Number.NaN, -0])).toEqual([Number.NaN, -0]);
});

test('every half value survives the round trip', () => {
  const all = Uint16Array.from({ length: 65536 }, (_, half) => half);
  const path = literalFile(`{"x":${entry('F16', [65536], [0, 131072])}}`, new Uint8Array(all.buffer));
  const source = openSafetensors(path);
  const values = source.readFloat32('x');
  source.close();
  expect(roundTrip('F16', [...values])).toEqual([...values]);
});

test('writing refuses values that do not fit, and leaves no file', () => {
  const folder = temporaryFolder();
  const write = (dtype: WritableDtype, data: Float32Array | Int32Array) => () =>
    writeSafetensors(join(folder, 'x'), [{ name: 'x', shape: [2], dtype, data: () => data }]);
  expect(write('F32', new Float32Array(3))).toThrow('x: 3 values for shape [2], which takes 2');
  expect(write('F32', new Int32Array(2))).toThrow('x: F32 wants a Float32Array');
  expect(write('I32', new Float32Array(2))).toThrow('x: I32 wants an Int32Array');
  const twice = { name: 'x', shape: [0], dtype: 'F32' as const, data: () => new Float32Array(0) };
  expect(() => writeSafetensors(join(folder, 'x'), [twice, twice])).toThrow('two tensors to write have the name x');
  expect(readdirSync(folder)).toEqual([]);
});
