// SPDX-License-Identifier: Apache-2.0
/** Several adapters on one loaded model: switching, disabling, merging and unmerging, and the base bit for bit what it was. */
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it, onTestFinished } from 'vitest';
import { getPeftModel, LoraConfig, type LoraConfigFields, PeftModel } from '../../adapters/index.ts';
import { ConfigError, UserError } from '../../src/errors.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { COMBINE_FOLDER } from '../golden/combine.ts';
import { GOLDEN_FOLDER } from '../golden/golden.ts';
import { bestBackend, forEachBackend, onBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

const MODEL = join(GOLDEN_FOLDER, 'tied', 'model');
const A = join(GOLDEN_FOLDER, 'tied', 'adapter');
const [B, C] = [join(COMBINE_FOLDER, 'b'), join(COMBINE_FOLDER, 'c')];
const ROWS = [[5, 9, 2, 77, 31, 4, 4, 60]];

function logitsOf(model: MambaForCausalLM): Float32Array {
  const { logits } = model.forward({ inputIds: ROWS });
  const values = logits.dataSync<'float32'>().slice();
  logits.dispose();
  return values;
}

async function loadModel(backend = bestBackend): Promise<MambaForCausalLM> {
  return MambaForCausalLM.fromPretrained(MODEL, { backend });
}

/** Logits with one adapter on a model of its own. */
async function alone(folder: string, backend = bestBackend): Promise<Float32Array> {
  const model = await loadModel(backend);
  PeftModel.fromPretrained(model, folder);
  const logits = logitsOf(model);
  model.dispose();
  return logits;
}

forEachBackend((backend) => {
  it('switches, disables, merges and unmerges; everything comes back bit for bit, and nothing leaks', async () => {
    const wanted = { a: await alone(A, backend), b: await alone(B, backend), c: await alone(C, backend) };
    const before = tf.memory().numTensors;
    const model = await loadModel(backend);
    const base = logitsOf(model);
    const peft = PeftModel.fromPretrained(model, A, { adapterName: 'a' });
    peft.loadAdapter(B, 'b');
    peft.loadAdapter(C, 'c');
    expect(peft.adapterNames).toEqual(['a', 'b', 'c']);
    expect(peft.activeAdapter).toBe('a');
    for (const name of ['a', 'c', 'b', 'a'] as const) {
      peft.setAdapter(name);
      expect(peft.config.r).toBe(name === 'c' ? 3 : 4);
      expect(logitsOf(model), name).toEqual(wanted[name]);
      expect(peft.disableAdapter(() => logitsOf(model))).toEqual(base);
      peft.mergeAdapter();
      expect(peft.isMerged).toBe(true);
      expectClose(logitsOf(model), wanted[name], { rtol: 1e-5, name: `${name} merged` });
      expect(peft.disableAdapter(() => logitsOf(model))).toEqual(base);
      expect(peft.isMerged).toBe(true);
      peft.unmergeAdapter();
      expect(logitsOf(model), `${name} unmerged`).toEqual(wanted[name]);
    }
    peft.mergeAdapter();
    peft.setAdapter('b');
    expect(peft.isMerged).toBe(false);
    peft.deleteAdapter('a');
    expect(peft.adapterNames).toEqual(['b', 'c']);
    expect(logitsOf(model)).toEqual(wanted.b);
    expect(peft.unload()).toBe(model);
    expect(logitsOf(model)).toEqual(base);
    model.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });
});

onBackend(bestBackend, () => {
  it.each<[string, Partial<LoraConfigFields>]>([
    ['DoRA', { useDora: true }],
    ['saved modules and biases', { modulesToSave: ['norm_f', 'A_log', 'lm_head'], bias: 'all' }],
    ['saved embeddings', { targetModules: ['in_proj'], modulesToSave: ['embeddings'] }],
    ['PiSSA', { initLoraWeights: 'pissa', r: 2, targetModules: ['in_proj', 'out_proj'] }],
    ['conv1d', { targetModules: ['conv1d', 'x_proj'], r: 2 }],
  ])('%s: merged, unmerged, unloaded', async (_, fields) => {
    const before = tf.memory().numTensors;
    const model = await loadModel();
    const base = logitsOf(model);
    const values = new Map(Array.from(model.parameters, ([name, variable]) => [name, variable.dataSync().slice()]));
    const config = new LoraConfig({ initLoraWeights: false, targetModules: ['in_proj', 'embeddings'], ...fields });
    const peft = getPeftModel(model, config, { seed: 3 });
    for (const variable of peft.tensors().values()) {
      const moved = variable.dataSync<'float32'>().map((value, i) => value + 0.1 * Math.cos(3 * i));
      tf.tidy(() => variable.assign(tf.tensor(moved, variable.shape)));
    }
    const adapted = logitsOf(model);
    expect(() => expectClose(adapted, base, { rtol: 1e-3 })).toThrow();
    peft.mergeAdapter();
    expectClose(logitsOf(model), adapted, { rtol: 1e-5, name: 'merged' });
    peft.unmergeAdapter();
    expect(logitsOf(model)).toEqual(adapted);
    peft.unload();
    expect(logitsOf(model)).toEqual(base);
    expect([...model.parameters.keys()]).toEqual([...values.keys()]);
    for (const [name, variable] of model.parameters) expect(variable.dataSync(), name).toEqual(values.get(name));
    model.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  it('what runs while disabled may take its time, and may fail', async () => {
    const model = await loadModel();
    const base = logitsOf(model);
    const peft = PeftModel.fromPretrained(model, B);
    onTestFinished(() => peft.dispose());
    const adapted = logitsOf(model);
    const later = peft.disableAdapter(async () => {
      await new Promise((resolve) => setTimeout(resolve, 1));
      return logitsOf(model);
    });
    expect(await later).toEqual(base);
    expect(logitsOf(model)).toEqual(adapted);
    const failing = () =>
      peft.disableAdapter(() => {
        throw new Error('mine');
      });
    expect(failing).toThrow('mine');
    expect(logitsOf(model)).toEqual(adapted);
  });

  it('an adapter that trains is saved after others were active', async () => {
    const model = await loadModel();
    const peft = PeftModel.fromPretrained(model, B, { trainable: true });
    onTestFinished(() => peft.dispose());
    const trainable = peft.counts().trainable;
    peft.loadAdapter(C, 'c');
    peft.setAdapter('c');
    expect(peft.counts().trainable).toBe(0);
    peft.setAdapter('default');
    expect(peft.counts().trainable).toBe(trainable);
    const folder = join(temporaryFolder(), 'saved');
    await peft.savePretrained(folder);
    expect(await alone(folder)).toEqual(await alone(B));
  });

  describe('errors, after which everything is as it was', () => {
    const setUp = async () => {
      const model = await loadModel();
      const peft = PeftModel.fromPretrained(model, B, { adapterName: 'books' });
      onTestFinished(() => peft.dispose());
      return { peft, model, adapted: logitsOf(model) };
    };

    it.each<[string, (peft: PeftModel) => unknown, RegExp]>([
      [
        'an unknown name',
        (peft) => peft.setAdapter('boks'),
        /there is no adapter boks; did you mean books\? There are: books/,
      ],
      ['a name that is taken', (peft) => peft.loadAdapter(C, 'books'), /there is an adapter books already/],
      [
        'deleting the active one',
        (peft) => peft.deleteAdapter('books'),
        /the adapter books is active; set another first/,
      ],
      ['unmerging what is not merged', (peft) => peft.unmergeAdapter(), /no adapter is merged/],
      [
        'tensors while disabled',
        (peft) => peft.disableAdapter(() => peft.tensors()),
        /the adapter books is not attached at present/,
      ],
    ])('%s', async (_, act, message) => {
      const { peft, model, adapted } = await setUp();
      expect(() => act(peft)).toThrow(ConfigError);
      expect(() => act(peft)).toThrow(message);
      expect(logitsOf(model)).toEqual(adapted);
    });

    it('merging twice', async () => {
      const { peft, model } = await setUp();
      peft.mergeAdapter();
      const merged = logitsOf(model);
      expect(() => peft.mergeAdapter()).toThrow(/the adapter books is merged already/);
      expect(logitsOf(model)).toEqual(merged);
    });

    it('an adapter that does not fit, or is not there', async () => {
      const { peft, model, adapted } = await setUp();
      const stranger = join(GOLDEN_FOLDER, 'rslora', 'adapter');
      expect(() => peft.loadAdapter(stranger, 'stranger')).toThrow(UserError);
      expect(() => peft.loadAdapter(stranger, 'stranger')).toThrow(/does not fit/);
      expect(() => peft.loadAdapter('nowhere', 'stranger')).toThrow(/nowhere: no such folder/);
      expect(peft.adapterNames).toEqual(['books']);
      expect(logitsOf(model)).toEqual(adapted);
    });

    it('a bias that the base has no place for', async () => {
      const model = await loadModel();
      const config = new LoraConfig({ loraBias: true, targetModules: ['dt_proj', 'in_proj'], initLoraWeights: false });
      const peft = getPeftModel(model, config);
      onTestFinished(() => peft.dispose());
      const adapted = logitsOf(model);
      expect(() => peft.mergeAdapter()).toThrow(/gives backbone\.layers\.0\.mixer\.in_proj a bias/);
      expect(logitsOf(model)).toEqual(adapted);
    });
  });
});
