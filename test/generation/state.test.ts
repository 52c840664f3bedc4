// SPDX-License-Identifier: Apache-2.0
/** A read text: continued as if it were read again, more than once, from memory and from a file; files that do not fit. */
import { copyFileSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { getPeftModel, LoraConfig } from '../../adapters/index.ts';
import { openSafetensors } from '../../src/checkpoint/safetensors.ts';
import { writeSafetensors } from '../../src/checkpoint/safetensors_writer.ts';
import { UserError } from '../../src/errors.ts';
import { generate, loadState, readPrompt, saveState } from '../../src/generation/index.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { testedBackends } from '../helpers/backends.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

const MODEL = join('test', 'golden', 'tied', 'model');
const load = () => MambaForCausalLM.fromPretrained(MODEL, { backend: testedBackends()[0] });
const LONG = Array.from({ length: 50 }, (_, i) => (i * 31) % 97);

let model: MambaForCausalLM;
beforeAll(async () => {
  model = await load();
});
afterAll(() => model.dispose());

const options = { maxNewTokens: 8, eosTokenId: null };
const whole = async (more: number[]) => (await generate(model, [[...LONG, ...more]], options))[0]?.slice(LONG.length);

test('prompts continue a state as they continue its text, again and again', async () => {
  const state = await readPrompt(model, LONG);
  const before = tf.memory().numTensors;
  expect(state.inputIds).toEqual(LONG);
  for (const prompts of [
    [[5]],
    [
      [5, 6],
      [7, 8],
    ],
    [[9], [1, 2, 3], []],
    [[]],
  ]) {
    const rows = await generate(model, prompts, { ...options, state });
    for (const [i, prompt] of prompts.entries()) expect(rows[i]).toEqual(await whole(prompt));
  }
  expect(tf.memory().numTensors).toBe(before);
  state.dispose();
});

test('samples of a state', async () => {
  const state = await readPrompt(model, LONG);
  const sampling = { ...options, doSample: true, seed: 3, numReturnSequences: 3 };
  const rows = await generate(model, [[4], [5, 6]], { ...sampling, state });
  const expected = await generate(
    model,
    [
      [...LONG, 4],
      [...LONG, 5, 6],
    ],
    sampling,
  );
  expect(rows).toEqual(expected.map((row) => row.slice(LONG.length)));
  state.dispose();
});

test('what the options count in a row, they count in the state', async () => {
  const state = await readPrompt(model, LONG);
  const penalised = { ...options, repetitionPenalty: 1.8, noRepeatNgramSize: 2 };
  const [row] = await generate(model, [[4]], { ...penalised, state });
  expect(row).toEqual((await generate(model, [[...LONG, 4]], penalised))[0]?.slice(LONG.length));
  state.dispose();
});

test('a state continues a state', async () => {
  const first = await readPrompt(model, LONG);
  const second = await readPrompt(model, [11, 12], { state: first });
  expect(second.inputIds).toEqual([...LONG, 11, 12]);
  first.dispose();
  expect((await generate(model, [[13]], { ...options, state: second }))[0]).toEqual(
    (await whole([11, 12, 13]))?.slice(2),
  );
  second.dispose();
});

test('no ids and no state', async () => {
  await expect(readPrompt(model, [])).rejects.toThrow(/prompt 0 has no ids/);
});

describe('files', () => {
  async function saved(of = model): Promise<string> {
    const path = join(temporaryFolder(), 'state.safetensors');
    const state = await readPrompt(of, LONG);
    saveState(path, state, of);
    state.dispose();
    return path;
  }

  test('a loaded state has the bits of the saved one', async () => {
    const path = await saved();
    const state = await readPrompt(model, LONG);
    const before = tf.memory().numTensors;
    const loaded = loadState(path, model);
    expect(loaded.inputIds).toEqual(state.inputIds);
    expect(loaded.logits).toEqual(state.logits);
    for (const kind of ['convStates', 'ssmStates'] as const) {
      for (const [layer, tensor] of state.cache[kind].entries()) {
        expect(loaded.cache[kind][layer]?.dataSync()).toEqual(tensor.dataSync());
      }
    }
    expect((await generate(model, [[3]], { ...options, state: loaded }))[0]).toEqual(await whole([3]));
    loaded.dispose();
    expect(tf.memory().numTensors).toBe(before);
    state.dispose();
  });

  test('it is a safetensors file as docs/generation.md describes it', async () => {
    const source = openSafetensors(await saved());
    const { dInner, dState, dConv, layers } = { dInner: 64, dState: 16, dConv: 4, layers: 2 };
    expect(source.metadata).toEqual({
      format: 'mambatune-state',
      version: '1',
      model: MODEL,
      base_sha256: expect.stringMatching(/^[0-9a-f]{64}$/) as string,
      adapter_sha256: '',
    });
    const shapes = Object.fromEntries([...source.entries].map(([name, { shape }]) => [name, shape]));
    expect(shapes).toMatchObject({
      input_ids: [LONG.length],
      logits: [97],
      'backbone.layers.0.mixer.conv_state': [dConv - 1, dInner],
      'backbone.layers.1.mixer.ssm_state': [dInner, dState],
    });
    expect(source.entries.size).toBe(2 + 2 * layers);
    source.close();
  });

  const refused = (path: string, of: MambaForCausalLM, message: RegExp) => {
    const before = tf.memory().numTensors;
    expect(() => loadState(path, of)).toThrow(UserError);
    expect(() => loadState(path, of)).toThrow(message);
    expect(tf.memory().numTensors).toBe(before);
  };
  const other = async () => {
    const loaded = await load();
    onTestFinished(() => loaded.dispose());
    return loaded;
  };

  test('of another base model', async () => {
    const changed = await other();
    const weight = changed.parameters.get('backbone.layers.1.mixer.D') as tf.Variable;
    tf.tidy(() => weight.assign(tf.add(weight, 1)));
    refused(
      await saved(),
      changed,
      /belongs to other weights \(sha256 [0-9a-f]{12}…, test\/golden\/tied\/model\) than the model's/,
    );
  });

  test('of another adapter', async () => {
    const adapted = await other();
    getPeftModel(adapted, new LoraConfig({ r: 2, targetModules: ['in_proj'], initLoraWeights: false }));
    refused(await saved(), adapted, /was saved with no adapter, and the model has the adapter of sha256 [0-9a-f]{12}…/);
    const path = await saved(adapted);
    refused(path, model, /was saved with the adapter of sha256 .*, and the model has no adapter/);
    loadState(path, adapted).dispose();
    const scaled = [...adapted.modules.values()].find((module) => module.lora)?.lora as { scaling: number };
    scaled.scaling *= 2;
    refused(path, adapted, /was saved with the adapter of sha256 .* and the model has the adapter of sha256/);
  });

  test('of another adapter, in what it trains whole', async () => {
    const adapted = await other();
    const fields = { r: 2, targetModules: ['in_proj'], modulesToSave: ['D'] };
    getPeftModel(adapted, new LoraConfig(fields));
    const path = await saved(adapted);
    loadState(path, adapted).dispose();
    refused(path, model, /was saved with the adapter of sha256 .*, and the model has no adapter/);
    const weight = adapted.parameters.get('backbone.layers.1.mixer.D') as tf.Variable;
    tf.tidy(() => weight.assign(tf.add(weight, 1)));
    refused(path, adapted, /was saved with the adapter of sha256 .* and the model has the adapter of sha256/);
  });

  test('of another adapter, in which tokens have rows of their own', async () => {
    const withTokens = async (trainableTokenIndices: number[]) => {
      const adapted = await other();
      const peft = getPeftModel(adapted, new LoraConfig({ r: 2, targetModules: ['in_proj'], trainableTokenIndices }));
      for (const [name, variable] of peft.tensors())
        if (name.includes('tokens')) tf.tidy(() => variable.assign(tf.onesLike(variable)));
      return adapted;
    };
    const path = await saved(await withTokens([90, 91]));
    loadState(path, await withTokens([90, 91])).dispose();
    refused(path, await withTokens([90, 92]), /with the adapter of sha256 .* and the model has the adapter of sha256/);
  });

  test('damaged, or no state at all', async () => {
    const path = await saved();
    refused(join(MODEL, 'model.safetensors'), model, /this is no state of a generation/);
    refused(join(MODEL, 'absent.safetensors'), model, /absent\.safetensors/);
    const cut = join(temporaryFolder(), 'cut.safetensors');
    copyFileSync(path, cut);
    truncateSync(cut, readFileSync(path).length - 4);
    refused(cut, model, /cut\.safetensors/);

    const source = openSafetensors(path);
    const rewritten = (change: (name: string, values: Float32Array) => Float32Array | null, version = '1') => {
      const file = join(temporaryFolder(), 'rewritten.safetensors');
      const tensors = [...source.entries].flatMap(([name, { shape }]) => {
        if (name === 'input_ids') return { name, shape, dtype: 'I32' as const, data: () => source.readInt32(name) };
        const values = change(name, source.readFloat32(name));
        return values ? { name, shape: [...shape], dtype: 'F32' as const, data: () => values } : [];
      });
      writeSafetensors(file, tensors, { ...source.metadata, version });
      return file;
    };
    const last = 'backbone.layers.1.mixer.ssm_state';
    refused(
      rewritten((name, values) => (name === last ? null : values)),
      model,
      /tensor .*1\.mixer\.ssm_state is missing; expected \[64, 16\]/,
    );
    const spoilt = rewritten((name, values) => (name === last ? values.fill(Number.NaN, 5, 6) : values));
    refused(spoilt, model, /ssm_state holds NaN at element 5/);
    refused(
      rewritten((_, values) => values, '9'),
      model,
      /state of version 9; this program reads version 1/,
    );
    source.close();
  });

  test('a folder that cannot be written', async () => {
    const file = join(temporaryFolder(), 'file');
    writeFileSync(file, '');
    const state = await readPrompt(model, [1]);
    expect(() => saveState(join(file, 'state.safetensors'), state, model)).toThrow(UserError);
    state.dispose();
  });
});
