// SPDX-License-Identifier: Apache-2.0
/** Adapters written with each option, loaded by peft: the same logits. */
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { afterAll, beforeAll, describe, expect, inject, it, onTestFinished } from 'vitest';
import { getPeftModel, LoraConfig, type LoraConfigFields, mergeAndSave, PeftModel } from '../../adapters/index.ts';
import { valueAndGradients } from '../../src/autograd/index.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { dropoutMask, MASKS_PER_STEP } from '../../src/ops/dropout.ts';
import { readGolden } from '../golden/golden.ts';
import { bestBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { type Python, startPython } from './python.ts';

const interpreter = inject('python');
const PROJECTIONS = ['in_proj', 'x_proj', 'out_proj'];

/** Some that the golden's texts hold, and one that they do not. */
const TOKENS = [96, 4, 60, 12, 0];

/** No LoRA on dt_proj, and no A_log or D of its own: what peft makes of them, transformers does not read. */
const OPTIONS: [name: string, fields: Partial<LoraConfigFields>][] = [
  ['patterns', { rankPattern: { in_proj: 5, '.*0.*x_proj': 2 }, alphaPattern: { 'out_proj|embeddings': 11 } }],
  [
    'patterns, rslora, dora',
    { rankPattern: { in_proj: 5 }, alphaPattern: { x_proj: 3 }, useRslora: true, useDora: true },
  ],
  ['layers', { targetModules: PROJECTIONS, layersToTransform: [1], layersPattern: 'layers' }],
  ['one layer, whole names', { targetModules: ['x_proj', 'backbone.layers.0.mixer.in_proj'], layersToTransform: 1 }],
  ['exclude names', { excludeModules: ['0.mixer.x_proj', 'embeddings'] }],
  ['exclude by expression', { targetModules: 'all-linear', excludeModules: '.*(dt_proj|0.mixer.out_proj)' }],
  ['lora_bias', { targetModules: PROJECTIONS, loraBias: true, loraAlpha: 3 }],
  ['bias: all', { bias: 'all' }],
  ['pissa', { initLoraWeights: 'pissa', loraAlpha: 6 }],
  ['pissa, dora, rslora', { initLoraWeights: 'pissa', useDora: true, useRslora: true }],
  ['olora', { initLoraWeights: 'olora', loraAlpha: 6 }],
  ['orthogonal', { initLoraWeights: 'orthogonal' }],
  ['modules_to_save: lm_head', { modulesToSave: ['lm_head'] }],
  ['modules_to_save: norm, norm_f', { targetModules: ['in_proj'], modulesToSave: ['norm', 'norm_f'] }],
  ['modules_to_save: conv1d', { targetModules: ['in_proj'], modulesToSave: ['conv1d'] }],
  ['modules_to_save: embeddings', { targetModules: ['in_proj'], modulesToSave: ['embeddings'] }],
  ['trainable_token_indices', { targetModules: PROJECTIONS, trainableTokenIndices: TOKENS }],
  ['modules_to_save: x_proj, bias: all', { targetModules: ['in_proj'], modulesToSave: ['x_proj'], bias: 'all' }],
];

describe.runIf(interpreter)('adapters in peft', () => {
  let python: Python;
  beforeAll(() => {
    python = startPython(interpreter as string);
  });
  afterAll(() => python.stop());

  it.each(OPTIONS)('%s', async (_, fields) => {
    const golden = readGolden('tied');
    const input_ids = golden.rows('input_ids');
    const folder = join(golden.folder, 'model');
    const model = await MambaForCausalLM.fromPretrained(folder, { backend: bestBackend });
    onTestFinished(() => model.dispose());
    const base = logitsOf(model, input_ids);
    const peft = getPeftModel(model, new LoraConfig({ r: 4, initLoraWeights: false, ...fields }));
    for (const [name, variable] of model.trainableParameters()) {
      if (fields.initLoraWeights || !name.includes('lora_'))
        tf.tidy(() => variable.assign(tf.add(tf.mul(variable, 1.1), 0.02 + name.length / 1e3)));
    }
    const adapter = join(temporaryFolder(), 'adapter');
    await peft.savePretrained(adapter);
    const answer = await python.ask<{ logits: number[] }>('adapter_logits', { model: folder, adapter, input_ids });
    const own = logitsOf(model, input_ids);
    expect(own).not.toEqual(base);
    expectClose(own, answer.logits, { rtol: 0, atol: 1e-4 });
  });
});

describe.runIf(interpreter)('dropout in peft, with our masks', () => {
  let python: Python;
  beforeAll(() => {
    python = startPython(interpreter as string);
  });
  afterAll(() => python.stop());

  it.each([
    ['lora', {}],
    ['dora', { useDora: true }],
    ['dora, rslora', { useDora: true, useRslora: true }],
  ])('%s: the same loss and gradients', async (_, fields) => {
    const golden = readGolden('tied');
    const input_ids = golden.rows('input_ids');
    const folder = join(golden.folder, 'model');
    const model = await MambaForCausalLM.fromPretrained(folder, { backend: bestBackend });
    onTestFinished(() => model.dispose());
    const loraDropout = 0.4;
    const peft = getPeftModel(model, new LoraConfig({ r: 4, loraDropout, initLoraWeights: false, ...fields }));
    for (const [name, variable] of model.trainableParameters())
      if (name.includes('magnitude')) tf.tidy(() => variable.assign(tf.mul(variable, 1.2)));
    const adapter = join(temporaryFolder(), 'adapter');
    await peft.savePretrained(adapter);

    const state = { seed: 7, step: 2 };
    const rows = input_ids.flat().length;
    const masks = Object.fromEntries(
      [...model.modules.values()].flatMap(({ name, kind, index, lora }) => {
        if (!lora || kind === 'embedding') return [];
        const offset = state.step * MASKS_PER_STEP + index;
        const shape = [rows, lora.A.shape[1] as number];
        return [[name, [...tf.tidy(() => dropoutMask(shape, loraDropout, state.seed, offset).dataSync())]]];
      }),
    );
    const theirs = await python.ask<{ loss: number; gradients: Record<string, number[]> }>('gradients_with_masks', {
      model: folder,
      adapter,
      input_ids,
      masks,
    });
    model.setDropout(state);
    const parameters = model.trainableParameters();
    const inputIds = Int32Array.from(input_ids.flat());
    const batch = { inputIds, labels: inputIds, batch: input_ids.length, seqlen: input_ids[0]?.length ?? 0 };
    tf.tidy(() => {
      const { value, gradients } = valueAndGradients(() => model.lossSum(batch).lossSum, [...parameters.values()]);
      expectClose(value.dataSync(), [theirs.loss], { rtol: 1e-5 });
      expect(Object.keys(theirs.gradients).sort()).toEqual([...parameters.keys()].sort());
      for (const [i, name] of [...parameters.keys()].entries())
        expectClose(gradients[i]?.dataSync() ?? [], theirs.gradients[name] ?? [], { rtol: 1e-4, name });
    });
  });
});

describe.runIf(interpreter)('adapters of peft', () => {
  let python: Python;
  beforeAll(() => {
    python = startPython(interpreter as string);
  });
  afterAll(() => python.stop());

  it.each<[string, unknown]>([
    ['a list', TOKENS],
    ['named embeddings', { embeddings: TOKENS }],
    ['named embeddings and head', { embeddings: TOKENS, lm_head: TOKENS }],
  ])('rows of single tokens, %s: here as there, and merged', async (_, trainable_token_indices) => {
    const golden = readGolden('tied');
    const input_ids = golden.rows('input_ids');
    const model = join(golden.folder, 'model');
    const output = join(temporaryFolder(), 'adapter');
    const config = { r: 4, target_modules: PROJECTIONS, trainable_token_indices };
    const made = await python.ask<{ logits: number[] }>('fresh_adapter', { model, config, input_ids, output });
    const loaded = await MambaForCausalLM.fromPretrained(model, { backend: bestBackend });
    onTestFinished(() => loaded.dispose());
    const base = logitsOf(loaded, input_ids);
    const peft = PeftModel.fromPretrained(loaded, output);
    const own = logitsOf(loaded, input_ids);
    expect(own).not.toEqual(base);
    expectClose(own, made.logits, { rtol: 0, atol: 1e-4 });
    const merged = join(temporaryFolder(), 'merged');
    expect(await mergeAndSave(peft, merged)).toMatchObject({ untied: false });
    const read = await python.ask<{ logits: number[]; tied: boolean }>('model_logits', { model: merged, input_ids });
    expect(read.tied).toBe(true);
    expectClose(read.logits, made.logits, { rtol: 0, atol: 1e-4 });
  });
});

function logitsOf(model: MambaForCausalLM, inputIds: number[][]): Float32Array {
  const { logits } = model.forward({ inputIds });
  const values = logits.dataSync<'float32'>().slice();
  logits.dispose();
  return values;
}
