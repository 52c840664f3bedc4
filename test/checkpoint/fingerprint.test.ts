// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openCheckpoint } from '../../src/checkpoint/checkpoint.ts';
import { expectedTensors } from '../../src/checkpoint/expected_tensors.ts';
import { fingerprint } from '../../src/checkpoint/fingerprint.ts';
import { saveCheckpoint } from '../../src/checkpoint/save_checkpoint.ts';
import { GOLDEN_FOLDER } from '../golden/golden.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

function fingerprintOf(folder: string): string {
  const { config, source } = openCheckpoint(folder);
  const result = fingerprint(expectedTensors(config), source);
  source.close();
  return result;
}

const golden = (...path: string[]) => join(GOLDEN_FOLDER, ...path);

test('the same for the same weights however they are stored', () => {
  const one = fingerprintOf(golden('tied', 'model'));
  expect(one).toMatch(/^[0-9a-f]{64}$/);
  expect(fingerprintOf(golden('tied', 'model-sharded'))).toBe(one);
  expect(fingerprintOf(golden('tied', 'model-original'))).toBe(one);
  expect(fingerprintOf(golden('rslora', 'model'))).not.toBe(one);
});

test.each(['backbone.norm_f.weight', 'backbone.layers.1.mixer.A_log', 'backbone.embeddings.weight'])(
  'another one when the last row of %s changes',
  async (changed) => {
    const { config, source } = openCheckpoint(golden('tied', 'model'));
    const folder = join(temporaryFolder(), 'changed');
    const tensors = Array.from(expectedTensors(config), ([name, shape]) => ({
      name,
      shape,
      data: () => {
        const values = source.readFloat32(name);
        if (name === changed) values[values.length - 1] = 7;
        return values;
      },
    }));
    await saveCheckpoint(folder, config, tensors);
    source.close();
    expect(fingerprintOf(folder)).not.toBe(fingerprintOf(golden('tied', 'model')));
  },
);
