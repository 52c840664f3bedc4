// SPDX-License-Identifier: Apache-2.0
/** Every option that says what trains: the tensors that do, their gradients, the folder, the merged model, what is refused. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { getPeftModel, LoraConfig, type LoraConfigFields, mergeAndSave, PeftModel } from '../../adapters/index.ts';
import { valueAndGradients } from '../../src/autograd/index.ts';
import { selectBackend } from '../../src/backends/select.ts';
import { openSafetensors } from '../../src/checkpoint/safetensors.ts';
import { ConfigError, UserError } from '../../src/errors.ts';
import { bestBackend, forEachBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import {
  ALL,
  adapted,
  batch,
  CONFIG,
  expectMerges,
  expectSlopes,
  gradientsOf,
  holdNorms,
  LIVELY,
  logitsOf,
  newModel,
} from './tiny_adapter.ts';

const RANDOM: Partial<LoraConfigFields> = { r: 2, loraAlpha: 4, initLoraWeights: false };

/** Each option, with the base parameters that it has train. */
const OPTIONS: [name: string, fields: Partial<LoraConfigFields>, base: string[]][] = [
  ['lora_bias', { targetModules: ['in_proj', 'x_proj', 'dt_proj', 'out_proj'], loraBias: true }, []],
  ['rank_pattern', { targetModules: ALL, rankPattern: { '(x|dt)_proj': 3, embeddings: 1 } }, []],
  ['alpha_pattern, rslora', { targetModules: ALL, loraAlpha: 2, alphaPattern: { in_proj: 3 }, useRslora: true }, []],
  ['dora', { targetModules: ALL, useDora: true }, []],
  ['conv1d', { targetModules: ['conv1d', 'in_proj'], rankPattern: { conv1d: 3 } }, []],
  ['conv1d, dora', { targetModules: ['conv1d'], useDora: true, modulesToSave: ['D'] }, ['D']],
  [
    'conv1d, bias: lora_only, lora_bias',
    { targetModules: ['conv1d'], bias: 'lora_only', loraBias: true },
    ['conv1d.bias'],
  ],
  ['all-linear', { targetModules: 'all-linear' }, []],
  ['bias: all', { targetModules: ['dt_proj'], bias: 'all' }, ['conv1d.bias', 'dt_proj.bias']],
  ['bias: lora_only', { targetModules: ['dt_proj', 'in_proj'], bias: 'lora_only' }, ['dt_proj.bias']],
  [
    'bias: all and lora_bias',
    { targetModules: ['dt_proj'], bias: 'all', loraBias: true },
    ['conv1d.bias', 'dt_proj.bias'],
  ],
  ['modules_to_save: A_log, D', { targetModules: ['x_proj'], modulesToSave: ['A_log', 'D'] }, ['A_log', 'D']],
  [
    'modules_to_save: conv1d, dt_proj.bias',
    { targetModules: ['in_proj'], modulesToSave: ['conv1d', 'dt_proj.bias'] },
    ['conv1d.weight', 'conv1d.bias', 'dt_proj.bias'],
  ],
  [
    'modules_to_save: norm, norm_f',
    { targetModules: ['embeddings'], modulesToSave: ['norm', 'norm_f'] },
    ['norm.weight', 'norm_f.weight'],
  ],
  ['modules_to_save: lm_head', { targetModules: ALL, modulesToSave: ['lm_head'] }, ['lm_head.weight']],
  ['modules_to_save: embeddings', { targetModules: ['in_proj'], modulesToSave: ['embeddings'] }, ['embeddings.weight']],
  ['trainable_token_indices', { targetModules: ['in_proj'], trainableTokenIndices: [35, 3, 4, 39, 0] }, []],
  ['modules_to_save: out_proj', { targetModules: ['in_proj'], modulesToSave: ['out_proj'] }, ['out_proj.weight']],
];

/** Moves the trained copies of base parameters, and of rows of them, away from the base. */
function disturb(peft: PeftModel): void {
  for (const [name, variable] of peft.model.trainableParameters()) {
    if (!name.includes('lora_'))
      tf.tidy(() => variable.assign(tf.add(tf.mul(variable, 1.1), 0.02 + name.length / 1e3)));
  }
}

function trainedBase({ model }: PeftModel): string[] {
  return [...model.trainableParameters().keys()].filter((name) => !name.startsWith('base_model.'));
}

forEachBackend((backend) => {
  describe.each(OPTIONS)('%s', (_, fields, base) => {
    it('trains what it says, each tensor along its slope', () => {
      const peft = adapted({ ...RANDOM, ...fields }, LIVELY);
      disturb(peft);
      expect(trainedBase(peft).map((name) => name.replace(/^.*(?:mixer|backbone|layers\.0)\./, ''))).toEqual(base);
      holdNorms(peft.model);
      expectSlopes(peft.model, backend);
    });
  });
});

describe.each(OPTIONS)('%s', (_, fields) => {
  beforeAll(async () => {
    await selectBackend(bestBackend);
  });

  it('begins at the base model', () => {
    expect(logitsOf(adapted({ ...fields, initLoraWeights: true }).model)).toEqual(logitsOf(newModel()));
  });

  it('a step uploads nothing, as it must to be recorded', () => {
    const { model } = adapted({ ...RANDOM, ...fields });
    const device = model.upload(batch());
    const upstream = tf.scalar(1);
    const step = () =>
      tf.dispose(
        valueAndGradients(() => model.lossSumOn(device).lossSum, [...model.trainableParameters().values()], {
          upstream: [upstream],
        }) as unknown as tf.TensorContainer,
      );
    tf.tidy(step);
    const backend = tf.backend() as unknown as Record<'write' | 'move', (...given: unknown[]) => unknown>;
    const spies = (['write', 'move'] as const).map((name) => vi.spyOn(backend, name));
    tf.tidy(step);
    for (const spy of spies) {
      expect(spy).not.toHaveBeenCalled();
      spy.mockRestore();
    }
    tf.dispose([upstream, ...Object.values(device)]);
  });

  it('gradients are the same with gradient checkpointing', () => {
    const { model } = adapted({ ...RANDOM, ...fields });
    const plain = gradientsOf(model);
    model.gradientCheckpointing = true;
    for (const [name, values] of gradientsOf(model)) expectClose(values, plain.get(name) ?? [], { rtol: 5e-6, name });
  });

  it('comes back from its folder', async () => {
    const peft = adapted({ ...RANDOM, ...fields });
    disturb(peft);
    const folder = join(temporaryFolder(), 'adapter');
    await peft.savePretrained(folder);
    const again = newModel();
    const loaded = PeftModel.fromPretrained(again, folder);
    expect(logitsOf(again)).toEqual(logitsOf(peft.model));
    expect(loaded.counts()).toMatchObject({ trainable: 0, all: peft.counts().all });
    expect(loaded.config.with({ initLoraWeights: false })).toEqual(peft.config);
    const trainable = PeftModel.fromPretrained(newModel(), folder, { trainable: true });
    expect(trainable.counts()).toEqual(peft.counts());
  });

  it('merges into a model of the same logits, or says why not', async () => {
    const peft = adapted({ ...RANDOM, ...fields });
    disturb(peft);
    if (fields.loraBias && fields.targetModules?.includes('in_proj')) {
      await expect(mergeAndSave(peft, join(temporaryFolder(), 'merged'))).rejects.toThrow(
        new UserError(
          'the adapter gives backbone.layers.0.mixer.in_proj a bias (lora_bias), and the base model has no place for one: it cannot be merged; use it as an adapter.',
        ),
      );
      return;
    }
    await expectMerges(peft);
  });
});

describe('base parameters', () => {
  it('are what they were, to the bit, when the trained ones are taken out', () => {
    const peft = adapted({
      ...RANDOM,
      targetModules: ['in_proj'],
      modulesToSave: ['A_log', 'norm', 'lm_head'],
      bias: 'all',
    });
    const before = logitsOf(newModel());
    disturb(peft);
    const { backbone } = peft.model;
    const trained = [...peft.tensors().values()];
    logitsOf(peft.model);
    backbone.restoreParameters();
    for (const module of peft.model.modules.values()) module.lora = null;
    expect(logitsOf(peft.model)).toEqual(before);
    expect(peft.model.parameters.has('lm_head.weight')).toBe(false);
    tf.dispose(trained);
  });

  it('are stored under the names that peft gives them', async () => {
    const peft = adapted({
      targetModules: ['dt_proj'],
      layersToTransform: 1,
      bias: 'all',
      modulesToSave: ['lm_head', 'norm_f', '0.mixer.D'],
    });
    const folder = join(temporaryFolder(), 'adapter');
    await peft.savePretrained(folder);
    const source = openSafetensors(join(folder, 'adapter_model.safetensors'));
    const names = [...source.entries.keys()].map((name) => name.replace(/^base_model\.model\.(?:backbone\.)?/, ''));
    source.close();
    expect(names.sort()).toEqual([
      'layers.0.mixer.D',
      'layers.0.mixer.conv1d.bias',
      'layers.0.mixer.dt_proj.bias',
      'layers.1.mixer.conv1d.bias',
      'layers.1.mixer.dt_proj.base_layer.bias',
      'layers.1.mixer.dt_proj.lora_A.weight',
      'layers.1.mixer.dt_proj.lora_B.weight',
      'lm_head.weight',
      'norm_f.weight',
    ]);
    const json = JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8')) as Record<string, unknown>;
    expect(json).toMatchObject({
      bias: 'all',
      layers_to_transform: 1,
      modules_to_save: ['lm_head', 'norm_f', '0.mixer.D'],
      target_modules: ['dt_proj'],
    });
  });
});

describe('which modules', () => {
  const names = (fields: Partial<LoraConfigFields>) =>
    [...getPeftModel(newModel(), new LoraConfig(fields)).model.modules.values()]
      .filter((module) => module.lora)
      .map(({ name }) => name.replace('backbone.', '').replace('layers.', '').replace('mixer.', ''));

  it('all-linear is every projection, whatever the case', () => {
    const all = [
      '0.in_proj',
      '0.x_proj',
      '0.dt_proj',
      '0.out_proj',
      '1.in_proj',
      '1.x_proj',
      '1.dt_proj',
      '1.out_proj',
    ];
    expect(names({ targetModules: 'all-linear' })).toEqual(all);
    expect(names({ targetModules: 'All-Linear' })).toEqual(all);
  });

  it.each<[Partial<LoraConfigFields>, string[]]>([
    [
      { targetModules: ['x_proj', 'in_proj'], excludeModules: ['0.mixer.in_proj'] },
      ['0.x_proj', '1.in_proj', '1.x_proj'],
    ],
    [{ targetModules: ALL, excludeModules: '.*[xt]_proj' }, ['embeddings', '0.in_proj', '1.in_proj']],
    [{ targetModules: ['x_proj', 'in_proj'], layersToTransform: 1 }, ['1.in_proj', '1.x_proj']],
    [{ targetModules: ['x_proj'], layersToTransform: [1, 0], layersPattern: 'layers' }, ['0.x_proj', '1.x_proj']],
    [{ targetModules: ['backbone.embeddings', 'x_proj'], layersToTransform: [0] }, ['embeddings', '0.x_proj']],
  ])('%j', (fields, wanted) => {
    expect(names(fields)).toEqual(wanted);
  });

  it.each<[Partial<LoraConfigFields>, string]>([
    [
      { excludeModules: ['q_proj'] },
      'exclude_modules: q_proj matches no module; the modules are embeddings, in_proj, conv1d, x_proj, dt_proj, out_proj.',
    ],
    [
      { targetModules: ['x_proj'], excludeModules: '.*_proj' },
      'exclude_modules: .*_proj excludes every module that target_modules names.',
    ],
    [
      { targetModules: ['x_proj'], rankPattern: { in_proj: 3 } },
      'rank_pattern: in_proj matches no adapted module; adapted are backbone.layers.0.mixer.x_proj, backbone.layers.1.mixer.x_proj.',
    ],
    [
      { targetModules: ['0.mixer.x_proj'], alphaPattern: { 'layers.1.*': 3 } },
      'alpha_pattern: layers.1.* matches no adapted module; adapted are backbone.layers.0.mixer.x_proj.',
    ],
    [
      { targetModules: ['x_proj'], layersToTransform: [0, 2, 5] },
      'layers_to_transform: there is no layer 2, 5; the model has layers 0 to 1.',
    ],
    [
      { targetModules: ['x_proj'], layersToTransform: 0, layersPattern: 'h' },
      "layers_pattern: h matches no list of layers; Mamba's is layers.",
    ],
    [
      { layersToTransform: 0 },
      'target_modules: embeddings lies outside the layers that layers_to_transform chooses; leave it out, or give its full name (such as backbone.embeddings).',
    ],
    [
      { loraBias: true },
      "lora_bias: an adapter of the embeddings has no bias (nor has peft's); take backbone.embeddings out of target_modules.",
    ],
    [
      { bias: 'lora_only' },
      "bias: lora_only would train nothing, because none of the adapted modules has a bias; of Mamba's, dt_proj and conv1d have one.",
    ],
    [
      { modulesToSave: ['score'] },
      'modules_to_save: score matches nothing; there are embeddings, norm, in_proj, conv1d, conv1d.bias, x_proj, dt_proj, dt_proj.bias, A_log, D, out_proj, norm_f, lm_head.',
    ],
    [
      { modulesToSave: ['mixer'] },
      'modules_to_save: mixer takes in backbone.layers.0.mixer.in_proj, which target_modules adapts; take it out of one of the two.',
    ],
  ])('%j is refused', (fields, message) => {
    const model = newModel(CONFIG);
    expect(() => getPeftModel(model, new LoraConfig(fields))).toThrow(new ConfigError(message));
    expect([...model.modules.values()].every((module) => module.lora === null)).toBe(true);
  });
});
