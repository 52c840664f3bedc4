// SPDX-License-Identifier: Apache-2.0
/** Reads the goldens of this folder (README.md says what they hold and how they were made). */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openSafetensors } from '../../src/checkpoint/safetensors.ts';

export const GOLDEN_FOLDER = join('test', 'golden');

export interface Golden {
  /** Folder of the golden, with model/ and adapter/. */
  folder: string;
  /** Losses of golden.json. */
  losses: { loss: number; lora_loss: number };
  names: string[];
  floats(name: string): Float32Array;
  integers(name: string): Int32Array;
  /** An integer matrix as rows. */
  rows(name: string): number[][];
}

export function readGolden(name: string): Golden {
  const folder = join(GOLDEN_FOLDER, name);
  const source = openSafetensors(join(folder, 'golden.safetensors'));
  const { entries } = source;
  const tensors = new Map(
    Array.from(entries, ([key, { dtype, shape }]) => [
      key,
      { shape, data: dtype === 'F32' ? source.readFloat32(key) : source.readInt32(key) },
    ]),
  );
  source.close();
  const read = (key: string) => {
    const tensor = tensors.get(key);
    if (!tensor) throw new Error(`${folder} holds no ${key}`);
    return tensor;
  };
  return {
    folder,
    losses: JSON.parse(readFileSync(join(folder, 'golden.json'), 'utf8')) as Golden['losses'],
    names: [...tensors.keys()],
    floats: (key) => read(key).data as Float32Array,
    integers: (key) => read(key).data as Int32Array,
    rows: (key) => {
      const { shape, data } = read(key);
      const [count = 0, length = 0] = shape;
      return Array.from({ length: count }, (_, row) => [...data.subarray(row * length, (row + 1) * length)]);
    },
  };
}
