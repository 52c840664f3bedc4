// SPDX-License-Identifier: Apache-2.0
/** First values that are made of the weights: the start is the base model, and what is trained is read back and merged right. */
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { getPeftModel, LoraConfig, type LoraConfigFields, PeftModel } from '../../adapters/index.ts';
import { selectBackend } from '../../src/backends/select.ts';
import { ConfigError } from '../../src/errors.ts';
import { bestBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { ALL, adapted, expectMerges, expectSlopes, LIVELY, logitsOf, newModel } from './tiny_adapter.ts';

beforeAll(async () => {
  await selectBackend(bestBackend);
});

/** dt_proj is [32, 2] in the test's model. */
const SMALL = { r: 4, loraAlpha: 6, targetModules: [...ALL, 'conv1d'], rankPattern: { dt_proj: 2 } };

/** As training would: the adapter moves, the base does not. */
function move(peft: PeftModel): void {
  for (const variable of peft.tensors().values()) {
    tf.tidy(() => variable.assign(tf.add(tf.mul(variable, 1.1), 0.02)));
  }
}

describe.each<[string, Partial<LoraConfigFields>]>([
  ['pissa', { ...SMALL, initLoraWeights: 'pissa' }],
  ['olora', { ...SMALL, initLoraWeights: 'olora' }],
  ['orthogonal', { ...SMALL, initLoraWeights: 'orthogonal' }],
  ['pissa, dora, rslora', { ...SMALL, initLoraWeights: 'pissa', useDora: true, useRslora: true }],
  ['olora, bias', { ...SMALL, initLoraWeights: 'olora', bias: 'all', modulesToSave: ['D'] }],
])('%s', (_, fields) => {
  it('begins at the base model, with values in A and B', () => {
    const peft = adapted(fields);
    expectClose(logitsOf(peft.model), logitsOf(newModel()), { rtol: 1e-5 });
    for (const [name, tensor] of peft.tensors()) {
      if (name.includes('.lora_A')) expect(Math.max(...tensor.dataSync().map(Math.abs)), name).toBeGreaterThan(1e-3);
    }
  });

  it('comes back from its folder, on the base model as it was', async () => {
    const peft = adapted(fields);
    move(peft);
    const folder = join(temporaryFolder(), 'adapter');
    await peft.savePretrained(folder);
    const again = newModel();
    const loaded = PeftModel.fromPretrained(again, folder, { trainable: true });
    expect(logitsOf(again)).toEqual(logitsOf(peft.model));
    expect(loaded.counts()).toEqual(peft.counts());
  });

  it('merges into a model of the same logits', async () => {
    const peft = adapted(fields);
    move(peft);
    await expectMerges(peft);
  });

  it('leaves the base parameters as they were, to the bit', () => {
    const peft = adapted(fields);
    const trained = [...peft.tensors().values()];
    peft.model.backbone.restoreParameters();
    for (const module of peft.model.modules.values()) module.lora = null;
    expect(logitsOf(peft.model)).toEqual(logitsOf(newModel()));
    tf.dispose(trained);
  });
});

it.each(['in_proj', 'x_proj', 'out_proj'])('pissa: gradients on %s against finite differences', (target) => {
  expectSlopes(adapted({ r: 2, targetModules: [target], initLoraWeights: 'pissa' }, LIVELY).model, bestBackend);
});

it('pissa takes the largest singular values: no other part of that rank leaves so little', () => {
  const [pissa, olora] = (['pissa', 'olora'] as const).map((initLoraWeights) => {
    const { model } = adapted({ r: 4, targetModules: ['in_proj'], initLoraWeights });
    const { weight } = model.modules.get('backbone.layers.0.mixer.in_proj') ?? {};
    return Math.hypot(...(weight?.dataSync() ?? []));
  }) as [number, number];
  const base = Math.hypot(...(newModel().parameters.get('backbone.layers.0.mixer.in_proj.weight')?.dataSync() ?? []));
  expect(pissa).toBeLessThan(olora);
  expect(olora).toBeLessThan(base);
});

it.each<[Partial<LoraConfigFields>, string]>([
  [
    { initLoraWeights: 'pissa', targetModules: ['dt_proj'] },
    'init_lora_weights: pissa takes r directions out of each weight, and backbone.layers.0.mixer.dt_proj [32, 2] has 2, not 8; lower r, or give it a rank in rank_pattern.',
  ],
  [
    { initLoraWeights: 'olora', r: 17, targetModules: ['x_proj'] },
    'init_lora_weights: olora takes r directions out of each weight, and backbone.layers.0.mixer.x_proj [10, 32] has 10, not 17; lower r, or give it a rank in rank_pattern.',
  ],
  [
    { initLoraWeights: 'orthogonal', r: 3, targetModules: ['in_proj'] },
    'init_lora_weights: orthogonal needs an even rank, and that of backbone.layers.0.mixer.in_proj is 3.',
  ],
])('%j is refused', (fields, message) => {
  expect(() => getPeftModel(newModel(), new LoraConfig(fields))).toThrow(new ConfigError(message));
});
