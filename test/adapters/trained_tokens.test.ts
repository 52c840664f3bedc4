// SPDX-License-Identifier: Apache-2.0
/** trainable_token_indices: what the rows do to lookup and head, what is refused, and all that is done with adapters done with them. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import {
  combineAdapters,
  convertAdapter,
  inspectAdapter,
  LoraConfig,
  type LoraConfigFields,
  mergeAdapter,
  PeftModel,
  readAdapterConfig,
} from '../../adapters/index.ts';
import { selectBackend } from '../../src/backends/select.ts';
import { ConfigError, UserError } from '../../src/errors.ts';
import { createDecoder } from '../../src/generation/decoder.ts';
import { openStreamedModel } from '../../src/model/streamed_model.ts';
import { runCli } from '../cli/run_cli.ts';
import { bestBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { changedAdapter } from './adapter_copy.ts';
import { adapted, CONFIG, expectMerges, gradientsOf, logitsOf, newModel, ROWS } from './tiny_adapter.ts';

const TOKENS = [35, 3, 20];
const KEY = 'base_model.model.backbone.embeddings.token_adapter.trainable_tokens_delta';
const UNTIED = CONFIG.with({ tieWordEmbeddings: false });
const FIELDS: Partial<LoraConfigFields> = { r: 2, targetModules: ['in_proj'], trainableTokenIndices: TOKENS };

/** With rows away from the base's. */
function moved(fields: Partial<LoraConfigFields> = {}, config = CONFIG): PeftModel {
  const peft = adapted({ ...FIELDS, ...fields }, config);
  const rows = peft.tensors().get(KEY) as tf.Variable;
  tf.tidy(() => rows.assign(tf.add(tf.mul(rows, -1), 0.1)));
  return peft;
}

async function stored(peft: PeftModel): Promise<string> {
  const folder = join(temporaryFolder(), 'adapter');
  await peft.savePretrained(folder);
  return folder;
}

const rowsOf = (logits: Float32Array, position: number) =>
  logits.slice(position * CONFIG.vocabSize, (position + 1) * CONFIG.vocabSize);

beforeAll(async () => {
  await selectBackend(bestBackend);
});

describe('what the rows reach', () => {
  /** Before any of the tokens is read, only a head can show them. */
  const changedAt = (peft: PeftModel) => {
    const [base, own] = [newModel(peft.model.config), peft.model].map((model) => {
      const { logits } = model.forward({ inputIds: [[9, 3]] });
      const values = logits.dataSync<'float32'>().slice();
      logits.dispose();
      return values;
    }) as [Float32Array, Float32Array];
    const differing = (position: number) =>
      [...rowsOf(own, position).keys()].filter((id) => rowsOf(own, position)[id] !== rowsOf(base, position)[id]);
    return { unread: differing(0), read: differing(1).length };
  };

  it('a tied head gives its tokens other logits, and no others; the lookup changes all that follow', () => {
    expect(changedAt(moved())).toEqual({ unread: [3, 20, 35], read: CONFIG.vocabSize });
  });

  it('a head of its own does not have them', () => {
    expect(changedAt(moved({}, UNTIED))).toEqual({ unread: [], read: CONFIG.vocabSize });
  });

  it('a head that trains whole beside them does not have them', () => {
    expect(changedAt(moved({ modulesToSave: ['lm_head'] }, UNTIED)).unread).toEqual([]);
  });

  it('frozen they compute what they computed in training', async () => {
    const peft = moved();
    const model = newModel();
    PeftModel.fromPretrained(model, await stored(peft));
    const [again, once] = [logitsOf(model), logitsOf(model)];
    expect(once).toEqual(again);
    expectClose(once, logitsOf(peft.model), { rtol: 1e-6 });
  });

  it('without a tied head a row that is not read has no gradient, and a read one has', () => {
    const gradient = gradientsOf(moved({}, UNTIED).model).get(KEY) as number[];
    const isZero = TOKENS.map((_, i) => gradient.slice(i * 16, (i + 1) * 16).every((value) => value === 0));
    expect(isZero).toEqual([false, false, !ROWS[0]?.includes(20)]);
  });

  it.each([
    ['frozen', false],
    ['in training', true],
  ])('single tokens in generation have them, %s', async (_, trainable) => {
    const folder = await stored(moved());
    const model = newModel();
    PeftModel.fromPretrained(model, folder, { trainable });
    const row = ROWS[0] as number[];
    const decoder = createDecoder(model);
    await decoder.prefill([row.slice(0, 4)]);
    let last = new Float32Array();
    for (const id of row.slice(4)) last = Float32Array.from(await decoder.step([id]));
    expectClose(last, rowsOf(logitsOf(model), row.length - 1), { rtol: 1e-5 });
    const before = tf.memory().numTensors;
    decoder.dispose();
    const other = createDecoder(model);
    await other.prefill([row]);
    await other.step([3]);
    other.dispose();
    expect(tf.memory().numTensors).toBeLessThanOrEqual(before);
  });
});

describe('adapters with them', () => {
  it('are switched, disabled, merged and unmerged, with the base as it was', async () => {
    const a = await stored(moved());
    const b = await stored(moved({ trainableTokenIndices: { embeddings: [7] } }));
    const model = newModel();
    const base = logitsOf(model);
    const start = tf.memory().numTensors;
    const peft = PeftModel.fromPretrained(model, a, { adapterName: 'a' });
    peft.loadAdapter(b, 'b');
    const own = logitsOf(model);
    expect(own).not.toEqual(base);
    expect(peft.disableAdapter(() => logitsOf(model))).toEqual(base);
    peft.setAdapter('b');
    expect(logitsOf(model)).not.toEqual(own);
    peft.setAdapter('a');
    expect(logitsOf(model)).toEqual(own);
    peft.mergeAdapter();
    expectClose(logitsOf(model), own, { rtol: 1e-5 });
    expect(model.parameters.has('lm_head.weight'), 'still tied').toBe(false);
    peft.unmergeAdapter();
    expect(logitsOf(model)).toEqual(own);
    peft.unload();
    expect(logitsOf(model)).toEqual(base);
    expect(tf.memory().numTensors).toBe(start);
  });

  it.each([
    ['tied', CONFIG, {}],
    ['untied', UNTIED, {}],
    ['untied, lm_head whole', UNTIED, { modulesToSave: ['lm_head'] }],
  ] as const)('merge, %s, into a model that is tied as before', async (_, config, fields) => {
    await expectMerges(moved({ ...fields }, config));
  });

  it('go into the model of a peft-compatible export, and not into its adapter', async () => {
    const folder = temporaryFolder();
    const [base, adapter, output] = ['base', 'adapter', 'export'].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    await newModel().savePretrained(base);
    await moved({ targetModules: ['in_proj', 'out_proj'], initLoraWeights: false }).savePretrained(adapter);
    const streamed = openStreamedModel(base);
    onTestFinished(() => streamed.close());
    const probe = { source: 'fixed ids', inputIds: ROWS[0] as number[] };
    const receipt = await mergeAdapter(streamed, adapter, output, probe, { peftCompatible: true });
    expect(receipt).toMatchObject({ merged_tokens: TOKENS, adapter_modules: { length: 2 } });
    expect(receipt.relative_difference).toBeLessThan(1e-5);
    expect(readAdapterConfig(join(output, 'adapter')).trainableTokenIndices).toBeNull();
  });

  it('are neither combined nor converted, by the name of the rows', async () => {
    const folder = await stored(moved());
    const output = join(temporaryFolder(), 'output');
    const named = /1 tensors besides lora_A and lora_B \(such as .*trainable_tokens_delta\)/;
    await expect(combineAdapters([folder], [1], output)).rejects.toThrow(named);
    await expect(convertAdapter(folder, output)).rejects.toThrow(named);
  });

  it('count their rows alone, and inspect names the tokens', async () => {
    const plain = adapted({ ...FIELDS, trainableTokenIndices: null });
    const peft = moved();
    const added = TOKENS.length * CONFIG.hiddenSize;
    expect(peft.counts().trainable).toBe(plain.counts().trainable + added);
    expect(peft.counts().all).toBe(plain.counts().all + added);
    const folder = await stored(peft);
    const base = join(temporaryFolder(), 'base');
    await newModel().savePretrained(base);
    const streamed = openStreamedModel(base);
    onTestFinished(() => streamed.close());
    const report = inspectAdapter(folder, streamed);
    expect(report).toMatchObject({ trainableTokenIndices: TOKENS, otherTensors: [KEY] });
    expect(report.parameters).toBe(peft.counts().trainable);
  });

  it.each([
    [[35, 3], /trainable_tokens_delta: has \[3, 16\], the model needs \[2, 16\]/],
    [null, /trainable_tokens_delta: the model has no place for it/],
  ])('whose config says %j do not fit', async (indices, message) => {
    const folder = changedAdapter(await stored(moved()), { config: { trainable_token_indices: indices } });
    expect(() => PeftModel.fromPretrained(newModel(), folder)).toThrow(message);
    expect(() => PeftModel.fromPretrained(newModel(), folder)).toThrow(UserError);
  });
});

it('inspect and merge say on the command line which tokens, and the merged model is tied', async () => {
  const folder = temporaryFolder();
  const [base, adapter, output] = ['base', 'adapter', 'merged'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  await newModel().savePretrained(base);
  await moved().savePretrained(adapter);
  const inspected = await runCli(['adapter', 'inspect', adapter, '--model', base]);
  expect(inspected.stdout).toContain('\ntokens       35, 3, 20\n');
  const merged = await runCli([
    'merge',
    '--model',
    base,
    '--adapter',
    adapter,
    '--output',
    output,
    '--backend',
    bestBackend,
  ]);
  expect(merged.code, merged.stderr).toBe(0);
  expect(merged.stdout).toContain('merged the rows of 3 tokens into the embeddings\n');
  const json = (name: string) => JSON.parse(readFileSync(join(output, name), 'utf8')) as Record<string, unknown>;
  expect(json('config.json').tie_word_embeddings).toBe(true);
  expect(json('merge_receipt.json')).toMatchObject({ merged_tokens: TOKENS, tied_embeddings: { head: 'unchanged' } });
});

describe('is refused', () => {
  const fault = (fields: Partial<LoraConfigFields>, config = CONFIG) => {
    expect(() => adapted({ ...FIELDS, ...fields }, config)).toThrow(ConfigError);
    try {
      adapted({ ...FIELDS, ...fields }, config);
    } catch (error) {
      return (error as Error).message;
    }
    return undefined;
  };

  it.each<[unknown, string]>([
    [[], 'trainableTokenIndices must be ids of tokens, at least one, or an object with them at embeddings'],
    [{}, 'trainableTokenIndices must be ids of tokens, at least one, or an object with them at embeddings'],
    [
      { embeddings: [] },
      'trainableTokenIndices must be ids of tokens, at least one, or an object with them at embeddings',
    ],
    [[-1], 'trainableTokenIndices must be ids of tokens, at least one, or an object with them at embeddings'],
    [[1.5], 'trainableTokenIndices must be ids of tokens, at least one, or an object with them at embeddings'],
    [7, 'trainableTokenIndices must be ids of tokens, at least one, or an object with them at embeddings'],
    [[4, 7, 4], 'trainableTokenIndices has 4 more than once'],
  ])('%j', (trainableTokenIndices, message) => {
    expect(() => new LoraConfig({ trainableTokenIndices } as Partial<LoraConfigFields>)).toThrow(
      new ConfigError(`LoraConfig: ${message}.`),
    );
  });

  it('an id outside the vocabulary', () => {
    expect(fault({ trainableTokenIndices: [39, 40, 41] })).toBe(
      'trainable_token_indices: 40, 41 are outside the vocabulary; the model has the ids 0 to 39.',
    );
  });

  it('together with an adapter of the embeddings, or with embeddings or a tied head that train whole', () => {
    expect(fault({ targetModules: ['embeddings', 'in_proj'] })).toMatch(/target_modules adapts the embeddings already/);
    expect(fault({ modulesToSave: ['embeddings'] })).toMatch(
      /modules_to_save trains backbone\.embeddings whole already/,
    );
    expect(fault({ modulesToSave: ['lm_head'] })).toMatch(/trains lm_head whole, which would share the rows/);
  });

  it('rows of other modules, and of a head other than the tied rows', () => {
    expect(fault({ trainableTokenIndices: { in_proj: [1] } })).toMatch(
      /in_proj holds no tokens; embeddings is what does/,
    );
    expect(fault({ trainableTokenIndices: { lm_head: [1] } })).toMatch(
      /single rows of lm_head do not train by themselves/,
    );
    const both = { embeddings: [1, 2], lm_head: [1, 3] };
    expect(fault({ trainableTokenIndices: both })).toMatch(/lm_head is tied to the embeddings/);
    expect(fault({ trainableTokenIndices: both }, UNTIED)).toMatch(/lm_head has a matrix of its own/);
    const same = adapted({ ...FIELDS, trainableTokenIndices: { embeddings: [1, 2], lm_head: [1, 2] } });
    expect(same.tensors().get(KEY)?.shape).toEqual([2, 16]);
  });
});
