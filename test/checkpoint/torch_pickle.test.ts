// SPDX-License-Identifier: Apache-2.0
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openSafetensors } from '../../src/checkpoint/safetensors.ts';
import { openTorchPickle } from '../../src/checkpoint/torch_pickle.ts';
import { UserError } from '../../src/errors.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { float32Bytes, op, pickleOf, rawFile, torchFile, zipOf } from '../helpers/torch_file.ts';

const GOLDEN = join(import.meta.dirname, '../golden/tied');

function expectRefused(path: string, message: string): void {
  expect(() => openTorchPickle(path)).toThrow(UserError);
  expect(() => openTorchPickle(path)).toThrow(`${path}: `);
  expect(() => openTorchPickle(path)).toThrow(message);
}

test("reads torch's own file as the safetensors copy of the same model", () => {
  const torch = openTorchPickle(join(GOLDEN, 'model-original/pytorch_model.bin'));
  const safetensors = openSafetensors(join(GOLDEN, 'model/model.safetensors'));
  expect(torch.entries.size).toBe(safetensors.entries.size + 1);
  for (const [name, { shape }] of safetensors.entries) {
    const torchName = name.replace('embeddings', 'embedding');
    expect(torch.entries.get(torchName)).toMatchObject({ dtype: 'F32', shape });
    expect(torch.readFloat32(torchName)).toEqual(safetensors.readFloat32(name));
  }
  expect(torch.entries.get('lm_head.weight')?.aliasOf).toBe('backbone.embedding.weight');
  torch.close();
  safetensors.close();
});

test('views of one storage: transposed, shifted, expanded axes of size 1, empty', () => {
  const storage = op.storage('FloatStorage', '0', 6);
  const path = torchFile(
    pickleOf(
      op.dict({
        whole: op.tensor(storage, 0, [2, 3], [3, 1]),
        transposed: op.tensor(storage, 0, [3, 2], [1, 3]),
        column: op.tensor(storage, 1, [2], [3]),
        tail: op.tensor(storage, 4, [2], [1]),
        odd: op.tensor(storage, 0, [2, 1, 3], [3, 77, 1]),
        empty: op.tensor(storage, 0, [0, 3], [3, 1]),
        scalar: op.tensor(storage, 5, [], []),
        same: op.tensor(storage, 0, [2, 3], [3, 1]),
      }),
    ),
    { 0: float32Bytes(0, 1, 2, 3, 4, 5) },
  );
  const source = openTorchPickle(path);
  const read = (name: string) => [...source.readFloat32(name)];
  expect(read('whole')).toEqual([0, 1, 2, 3, 4, 5]);
  expect(read('transposed')).toEqual([0, 3, 1, 4, 2, 5]);
  expect(read('column')).toEqual([1, 4]);
  expect(read('tail')).toEqual([4, 5]);
  expect(read('odd')).toEqual([0, 1, 2, 3, 4, 5]);
  expect(read('empty')).toEqual([]);
  expect(read('scalar')).toEqual([5]);
  const rows = (name: string, start: number, count: number) => [...source.readFloat32(name, { start, count })];
  expect(rows('whole', 1, 1)).toEqual([3, 4, 5]);
  expect(rows('transposed', 1, 2)).toEqual([1, 4, 2, 5]);
  expect(rows('odd', 0, 1)).toEqual([0, 1, 2]);
  expect(() => rows('whole', 1, 2)).toThrow(new RangeError('the tensor has 2 rows; asked for 2 from 1'));
  expect(source.entries.get('same')?.aliasOf).toBe('whole');
  expect(source.entries.get('transposed')?.aliasOf).toBeUndefined();
  source.close();
});

test('half, bfloat16 and long storages, parameters, an OrderedDict with state, zip64', () => {
  const halves = Buffer.from(Uint16Array.of(0x3c00, 0xc000).buffer);
  const brains = Buffer.from(Uint16Array.of(0x3f80, 0xc000).buffer);
  const longs = Buffer.from(BigInt64Array.of(5n, -6n).buffer);
  const pair = (type: string, key: string) => op.tensor(op.storage(type, key, 2), 0, [2], [1]);
  const parameter = op.call(op.global('torch._utils', '_rebuild_parameter'), pair('BFloat16Storage', 'b'), [0x88]);
  const items = Buffer.from(op.dict({ h: pair('HalfStorage', 'a'), b: parameter, l: pair('LongStorage', 'c') }));
  // OrderedDict() + the same items + BUILD({}), as a module's state_dict is written.
  const ordered = Buffer.concat([
    Buffer.from(op.call(op.global('collections', 'OrderedDict'))),
    items.subarray(1),
    Buffer.from([0x7d, 0x62]),
  ]);
  const source = openTorchPickle(torchFile(pickleOf(ordered), { a: halves, b: brains, c: longs }, { zip64: true }));
  expect([...source.readFloat32('h')]).toEqual([1, -2]);
  expect([...source.readFloat32('b')]).toEqual([1, -2]);
  expect([...source.readInt32('l')]).toEqual([5, -6]);
  expect(() => source.readFloat32('l')).toThrow('tensor l is stored as I64; expected a float tensor');
  source.close();
});

test.each([
  ['os', 'system'],
  ['posix', 'system'],
  ['builtins', 'eval'],
  ['torch', 'load'],
])('a pickle that calls %s.%s is refused and runs nothing', (module, name) => {
  const witness = join(temporaryFolder(), 'ran');
  const path = torchFile(pickleOf(op.call(op.global(module, name), op.string(`touch ${witness}`))));
  expectRefused(
    path,
    `at byte 2 the pickle asks for ${module}.${name}, which no list of tensors needs. Nothing was run.`,
  );
  expect(existsSync(witness)).toBe(false);
});

test('the protocol-4 spelling of a forbidden class is refused too', () => {
  const path = torchFile(
    pickleOf(Buffer.concat([op.string('os'), op.string('system'), [0x93]].map((part) => Buffer.from(part)))),
  );
  expectRefused(path, 'the pickle asks for os.system');
});

test.each([
  ['NEWOBJ', [0x81]],
  ['INST', [0x69]],
  ['EXT1', [0x82]],
])('the opcode %s is refused', (_, opcode) => {
  expectRefused(
    torchFile(pickleOf(opcode)),
    `opcode 0x${opcode[0]?.toString(16)} at byte 2 of the pickle is not one that a list of tensors needs. Nothing was run.`,
  );
});

test('an allowed class in the wrong place', () => {
  expectRefused(
    torchFile(pickleOf(op.call(op.global('torch', 'FloatStorage')))),
    'the pickle calls torch.FloatStorage with arguments it does not take.',
  );
  expectRefused(torchFile(pickleOf(op.call(op.string('x')))), 'it calls what is no class');
});

test.each([
  ['ends early', Buffer.from([0x80, 2, 0x58, 200, 0, 0, 0, 65]), 'the pickle is damaged at byte 2: it ends too early'],
  ['has no end', Buffer.from([0x80, 2, 0x4e]), 'it has no end'],
  ['pops an empty stack', Buffer.from([0x80, 2, 0x2e]), 'an operand is missing'],
  ['asks for an unset memo', Buffer.from([0x80, 2, 0x68, 7]), 'memo 7 is not set'],
  ['has an unknown protocol', Buffer.from([0x80, 9]), 'protocol 9 is not between 2 and 5'],
  ['sets items without a mark', Buffer.from([0x80, 2, 0x7d, 0x75]), 'a mark is missing'],
])('a pickle that %s', (_, pickle, message) => {
  expectRefused(torchFile(pickle), message);
});

test.each([
  [
    'is larger than its storage',
    0,
    [3, 3],
    [3, 1],
    'a tensor of shape [3,3], strides [3,1] and offset 0 does not fit its storage of 6 elements',
  ],
  ['begins too late', 5, [2], [1], 'offset 5 does not fit'],
  ['strides out', 0, [2], [6], 'strides [6]'],
  ['repeats a storage', 0, [1_000_000_000], [0], 'shape [1000000000], strides [0]'],
  [
    'has a negative stride',
    5,
    [2],
    [-1],
    'the pickle calls torch._utils._rebuild_tensor_v2 with arguments it does not take',
  ],
  ['lacks a stride', 0, [2, 3], [1], 'with arguments it does not take'],
])('a tensor that %s', (_, offset, shape, strides, message) => {
  const tensor = op.tensor(op.storage('FloatStorage', '0', 6), offset, shape, strides);
  expectRefused(torchFile(pickleOf(op.dict({ x: tensor })), { 0: float32Bytes(0, 1, 2, 3, 4, 5) }), message);
});

test('storages that are missing, of another size, or of no known type', () => {
  const tensorOf = (type: string) => pickleOf(op.dict({ x: op.tensor(op.storage(type, '0', 2), 0, [2], [1]) }));
  expectRefused(torchFile(tensorOf('FloatStorage')), 'archive/data/0, which a tensor needs, is not in the archive.');
  expectRefused(
    torchFile(tensorOf('DoubleStorage'), { 0: float32Bytes(1, 2) }),
    'archive/data/0 should hold 2 F64 elements (16 bytes), but has 8 bytes.',
  );
  expectRefused(
    torchFile(tensorOf('QInt8Storage'), { 0: float32Bytes(1, 2) }),
    'the pickle asks for torch.QInt8Storage',
  );
});

test('a dictionary of something else', () => {
  expectRefused(torchFile(pickleOf(op.dict({ step: op.integer(3) }))), '"step" in the dictionary is no tensor.');
  expectRefused(torchFile(pickleOf(op.integer(3))), 'expected a dictionary of tensors in this file.');
});

test('the format before torch 1.6', () => {
  expectRefused(
    rawFile(Buffer.from('80028a0a6cfc9c46f9206aa850192e', 'hex')),
    "this is a pickle without an archive around it, torch's format before version 1.6. Load and save it once with a newer torch",
  );
});

test('files that are no archive, or a damaged one', () => {
  expectRefused(rawFile(Buffer.from('hello world')), 'it begins with 68656c6c, not with a zip archive');
  expectRefused(rawFile(Buffer.alloc(0)), 'it begins with nothing');
  const whole = readFileSync(join(GOLDEN, 'model-original/pytorch_model.bin'));
  expectRefused(rawFile(whole.subarray(0, 50_000)), 'the archive has no end record. It is truncated: fetch it again.');
  expectRefused(rawFile(zipOf({ 'a/b': Buffer.alloc(1) })), 'the archive holds no data.pkl.');
  expectRefused(
    rawFile(zipOf({ 'a/data.pkl': Buffer.alloc(1) }, { method: 8 })),
    'a/data.pkl in the archive is compressed',
  );
  expectRefused(
    rawFile(zipOf({ 'a/data.pkl': pickleOf(op.dict({})), 'a/byteorder': Buffer.from('big') })),
    'its byte order is "big"; only "little" can be read.',
  );
});

test('a pickle whose bytes were changed', () => {
  const bytes = readFileSync(torchFile(pickleOf(op.dict({}))));
  const at = bytes.indexOf(Buffer.from([0x7d, 0x28]));
  bytes[at] = 0x5d;
  expectRefused(rawFile(bytes), 'the checksum of archive/data.pkl is wrong. The file is damaged: fetch it again.');
});

test('an archive whose places lead nowhere', () => {
  const bytes = readFileSync(torchFile(pickleOf(op.dict({}))));
  const central = bytes.indexOf(Buffer.from([0x50, 0x4b, 1, 2]));
  const moved = Buffer.from(bytes);
  moved.writeUInt32LE(3, central + 42);
  expectRefused(rawFile(moved), 'no header of archive/data.pkl at byte 3, where the archive places it.');
  const grown = Buffer.from(bytes);
  grown.writeUInt32LE(1_000_000, central + 20);
  grown.writeUInt32LE(1_000_000, central + 24);
  expectRefused(rawFile(grown), `but the file ends at byte ${bytes.length}. It is truncated`);
});
