// SPDX-License-Identifier: Apache-2.0
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { readAdapterFolder } from '../../adapters/adapter_folder.ts';
import { inspectAdapter } from '../../adapters/index.ts';
import { UserError } from '../../src/errors.ts';
import { openStreamedModel } from '../../src/model/streamed_model.ts';
import { COMBINE_FOLDER } from '../golden/combine.ts';
import { GOLDEN_FOLDER } from '../golden/golden.ts';
import { changedAdapter } from './adapter_copy.ts';

const B = join(COMBINE_FOLDER, 'b');
const open = (name: string) => {
  const model = openStreamedModel(join(GOLDEN_FOLDER, name, 'model'));
  onTestFinished(() => model.close());
  return model;
};

it('ranks, scalings and norms, alone and against the base', () => {
  const report = inspectAdapter(B, open('tied'));
  expect(report).toMatchObject({
    r: 4,
    loraAlpha: 6,
    useRslora: true,
    baseModel: 'tied',
    baseMatches: true,
    otherTensors: [],
  });
  expect(report.modules).toHaveLength(5);
  const { modules } = readAdapterFolder(B);
  expect(report.parameters).toBe(
    [...modules.values()].reduce((sum, { A, B: b }) => sum + A.data.length + b.data.length, 0),
  );
  const name = 'backbone.layers.0.mixer.dt_proj';
  const { A, B: matrix } = modules.get(name) ?? {};
  if (!A || !matrix) throw new Error('unreachable');
  let squares = 0;
  for (let i = 0; i < matrix.shape[0]; i++) {
    for (let j = 0; j < A.shape[1]; j++) {
      let value = 0;
      for (let k = 0; k < 4; k++) value += (matrix.data[i * 4 + k] as number) * (A.data[k * A.shape[1] + j] as number);
      squares += value * value;
    }
  }
  const found = report.modules.find(({ module }) => module === name);
  expect(found).toMatchObject({ rank: 4, scaling: 3 });
  expect(found?.normDelta).toBeCloseTo(3 * Math.sqrt(squares), 5);
  const weight = open('tied').parameters.get(`${name}.weight`)?.dataSync() ?? new Float32Array();
  const norm = Math.sqrt(weight.reduce((sum, value) => sum + value * value, 0));
  expect(found?.relative).toBeCloseTo((3 * Math.sqrt(squares)) / norm, 5);
  expect(inspectAdapter(B).modules[0]?.relative).toBeNull();
});

it('what peft makes of it', () => {
  const { peft } = inspectAdapter(join(GOLDEN_FOLDER, 'tied', 'adapter'));
  expect(peft).toEqual([
    { module: 'embeddings', count: 1, problem: expect.stringMatching(/merges it into a tied head/) },
    { module: 'out_proj', count: 2, problem: expect.stringMatching(/refuses it on Mamba since 0\.16/) },
  ]);
});

it('tensors that are all zero, not finite, or of another kind', () => {
  const prefix = 'base_model.model.backbone.layers.0.mixer';
  const damaged = changedAdapter(B, {
    tensors: (tensors) => {
      tensors.get(`${prefix}.in_proj.lora_B.weight`)?.data.fill(0);
      tensors.get(`${prefix}.dt_proj.lora_A.weight`)?.data.fill(Number.POSITIVE_INFINITY, 0, 1);
      tensors.set('base_model.model.backbone.norm_f.weight', { shape: [1], data: Float32Array.of(1) });
    },
  });
  expect(inspectAdapter(damaged, open('tied'))).toMatchObject({
    dead: ['backbone.layers.0.mixer.in_proj.lora_B'],
    notFinite: ['backbone.layers.0.mixer.dt_proj.lora_A'],
    otherTensors: ['base_model.model.backbone.norm_f.weight'],
  });
});

it('a base of other weights, and one that does not fit', () => {
  const renamed = changedAdapter(join(GOLDEN_FOLDER, 'tied', 'adapter'), {});
  expect(inspectAdapter(renamed, open('tied')).baseMatches).toBeNull();
  expect(() => inspectAdapter(B, open('rslora'))).toThrow(UserError);
  expect(() => inspectAdapter(B, open('rslora'))).toThrow(/does not fit/);
});
