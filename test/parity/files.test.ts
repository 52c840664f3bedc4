// SPDX-License-Identifier: Apache-2.0
/** Files that the project writes, opened by transformers, peft, safetensors and tokenizers. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, inject, it, onTestFinished } from 'vitest';
import { getPeftModel, LoraConfig, type LoraConfigFields, mergeAndSave, PeftModel } from '../../adapters/index.ts';
import type { SaveCheckpointOptions } from '../../src/checkpoint/save_checkpoint.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { MambaConfig } from '../../src/model/config.ts';
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts';
import { readGolden } from '../golden/golden.ts';
import { testedBackends } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { type Python, startPython } from './python.ts';

type Dtype = NonNullable<SaveCheckpointOptions['dtype']>;

const backend = testedBackends()[0] ?? 'cpu';
const interpreter = inject('python');
const REAL_TEXT = 'Happiness, n. An agreeable sensation arising from contemplating the misery of another.';
/** Of logits, absolute. */
const ATOL = 1e-4;

interface ModelAnswer {
  logits: number[];
  tied: boolean;
  eos_token_id: number;
}

async function load(folder: string): Promise<MambaForCausalLM> {
  const model = await MambaForCausalLM.fromPretrained(folder, { backend });
  onTestFinished(() => model.dispose());
  return model;
}

function logitsOf(model: MambaForCausalLM, inputIds: number[][]): Float32Array {
  const { logits } = model.forward({ inputIds });
  const values = logits.dataSync<'float32'>().slice();
  logits.dispose();
  return values;
}

describe.runIf(interpreter)('files', () => {
  let python: Python;
  beforeAll(() => {
    python = startPython(interpreter as string);
  });
  afterAll(() => python.stop());

  it.each(['tied', 'rslora', 'dora', 'falcon_mamba'])(
    '%s: our adapter folder in peft gives the same logits, and the golden ones',
    async (name) => {
      const golden = readGolden(name);
      const input_ids = golden.rows('input_ids');
      const model = await load(join(golden.folder, 'model'));
      const adapter = join(temporaryFolder(), 'adapter');
      const peft = PeftModel.fromPretrained(model, join(golden.folder, 'adapter'), { trainable: true });
      await peft.savePretrained(adapter);
      const request = { model: join(golden.folder, 'model'), adapter, input_ids };
      const { logits, parameters } = await python.ask<{ logits: number[]; parameters: number }>(
        'adapter_logits',
        request,
      );
      expectClose(logits, golden.floats('lora_logits'), { rtol: 0, atol: ATOL, name: 'against the golden' });
      expectClose(logitsOf(model, input_ids), logits, { rtol: 0, atol: ATOL, name: 'against peft' });
      expect(parameters).toBe(peft.counts().trainable);
    },
  );

  it.each<[string, Partial<LoraConfigFields>]>([
    ['rslora, names', { r: 4, loraAlpha: 2, useRslora: true }],
    ['dora', { r: 4, loraAlpha: 2, useDora: true }],
    ['an expression', { r: 3, targetModules: '.*\\.(in_proj|out_proj)' }],
    ['one layer', { r: 5, targetModules: ['3.mixer.x_proj', '0.mixer.in_proj'] }],
  ])('mamba-5m with a fresh adapter (%s) in peft', async (_, fields) => {
    const model = await load('models/mamba-5m');
    const input_ids = loadTokenizer('models/mamba-5m')([REAL_TEXT]).inputIds;
    const peft = getPeftModel(model, new LoraConfig({ ...fields, initLoraWeights: false }));
    const adapter = join(temporaryFolder(), 'adapter');
    await peft.savePretrained(adapter);
    const answer = await python.ask<{ logits: number[]; r: number; parameters: number }>('adapter_logits', {
      model: 'models/mamba-5m',
      adapter,
      input_ids,
    });
    expect(answer).toMatchObject({ r: fields.r, parameters: peft.counts().trainable });
    const own = logitsOf(model, input_ids);
    expectClose(own, answer.logits, { rtol: 1e-6, atol: ATOL });
  });

  it.each<[string, Dtype, string[]]>([
    ['embeddings and the rest', 'F32', ['embeddings', 'in_proj', 'x_proj', 'dt_proj', 'out_proj']],
    ['no embeddings', 'F32', ['in_proj', 'dt_proj']],
    ['embeddings and the rest', 'BF16', ['embeddings', 'in_proj', 'x_proj', 'out_proj']],
    ['embeddings and the rest', 'F16', ['embeddings', 'in_proj', 'x_proj', 'out_proj']],
  ])('a merged model (%s, %s) in transformers', async (_, dtype, targetModules) => {
    const model = await load('models/mamba-5m');
    const input_ids = loadTokenizer('models/mamba-5m')([REAL_TEXT]).inputIds;
    const peft = getPeftModel(model, new LoraConfig({ r: 4, loraAlpha: 1, targetModules, initLoraWeights: false }));
    const folder = join(temporaryFolder(), 'merged');
    await mergeAndSave(peft, folder, { dtype });
    const answer = await python.ask<ModelAnswer>('model_logits', { model: folder, input_ids });
    expect(answer.tied).toBe(!targetModules.includes('embeddings'));
    expect(answer.eos_token_id).toBe(0);
    const reread = await load(folder);
    expectClose(logitsOf(reread, input_ids), answer.logits, {
      rtol: 0,
      atol: ATOL,
      name: 'the same folder, read here',
    });
    if (dtype === 'F32') {
      expectClose(answer.logits, logitsOf(model, input_ids), {
        rtol: 0,
        atol: ATOL,
        name: 'the adapted model in memory',
      });
    }
  });

  it.each([
    { tieWordEmbeddings: true, useConvBias: true, useBias: false, dtype: 'F32' as const },
    { tieWordEmbeddings: false, useConvBias: false, useBias: true, dtype: 'BF16' as const },
  ])('a saved model in transformers: %j', async ({ dtype, ...fields }) => {
    await load('models/mamba-5m');
    const config = new MambaConfig({
      vocabSize: 97,
      hiddenSize: 40,
      numHiddenLayers: 3,
      stateSize: 12,
      timeStepRank: 5,
      convKernel: 3,
      intermediateSize: 72,
      ...fields,
    });
    const model = MambaForCausalLM.fromConfig(config, { seed: 8 });
    onTestFinished(() => model.dispose());
    const folder = join(temporaryFolder(), 'model');
    await model.savePretrained(folder, { dtype, maxShardSize: 30_000 });
    expect(readdirSync(folder)).toContain('model.safetensors.index.json');
    const input_ids = [Array.from({ length: 31 }, (_, i) => (i * 37) % 97)];
    const answer = await python.ask<ModelAnswer>('model_logits', { model: folder, input_ids });
    expect(answer.tied).toBe(fields.tieWordEmbeddings);
    expectClose(logitsOf(await load(folder), input_ids), answer.logits, { rtol: 1e-6, atol: ATOL });
  });

  it('a state-spaces checkpoint, saved as a Hugging Face folder, in transformers', async () => {
    const golden = readGolden('tied');
    const model = await load(join(golden.folder, 'model-original'));
    expect(model.config.rescalePrenormResidual).toBe(true);
    const folder = join(temporaryFolder(), 'model');
    await model.savePretrained(folder);
    const request = { model: folder, input_ids: golden.rows('input_ids') };
    const { logits } = await python.ask<ModelAnswer>('model_logits', request);
    expectClose(logits, golden.floats('logits'), { rtol: 0, atol: ATOL });
  });

  it.each<Dtype>(['F32', 'BF16', 'F16'])(
    'safetensors in %s has the same names, shapes, dtypes and values in Python',
    async (dtype) => {
      const model = await load('models/mamba-5m');
      const folder = join(temporaryFolder(), 'model');
      await model.savePretrained(folder, { dtype });
      const path = join(folder, 'model.safetensors');
      const reread = await load(folder);
      type Answer = {
        metadata: Record<string, string>;
        tensors: Record<string, { dtype: string; shape: number[]; float32: string }>;
      };
      const { metadata, tensors } = await python.ask<Answer>('tensors', { path });
      expect(metadata).toEqual({ format: 'pt' });
      expect(Object.keys(tensors).sort()).toEqual([...reread.parameters.keys()].sort());
      const dtypes = { F32: 'float32', BF16: 'bfloat16', F16: 'float16' };
      for (const [name, parameter] of reread.parameters) {
        const values = parameter.dataSync<'float32'>();
        const sha = createHash('sha256')
          .update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
          .digest('hex');
        expect(tensors[name], name).toEqual({ dtype: dtypes[dtype], shape: parameter.shape, float32: sha });
      }
    },
  );

  it('token ids and texts are those of tokenizers', async () => {
    const records = ['train', 'test'].flatMap((split) =>
      readFileSync(`datasets/quickstart/${split}.jsonl`, 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as { prompt: string; completion: string }),
    );
    const texts = [
      ...records.map(({ prompt, completion }) => prompt + completion),
      ...[
        '',
        ' ',
        '\n\n\t  x',
        'naïve café — “quoted” …',
        '数据 машина 🙂👩‍👩‍👧',
        'a\u0000b',
        '<|endoftext|>x<|endoftext|>',
        'x'.repeat(3000),
        '  leading and trailing  ',
        "don't we'll I'VE",
        '1234567890 3.14e-10',
      ],
    ];
    const tokenizer = loadTokenizer('models/mamba-5m');
    const answer = await python.ask<{ ids: number[][]; texts: string[] }>('encode', {
      model: 'models/mamba-5m',
      texts,
    });
    for (const [i, text] of texts.entries())
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(answer.ids[i]);
    expect(tokenizer.batchDecode(answer.ids)).toEqual(answer.texts);
  });

  it.each([
    {},
    { rescalePrenormResidual: true, timeStepScale: 2, timeStepMax: 0.5, useBias: true },
    { timeStepInitScheme: 'constant' as const, initializerRange: 0.02, tieWordEmbeddings: false },
  ])('random initialisation has the distribution of transformers: %j', async (fields) => {
    await load('models/mamba-5m');
    const model = MambaForCausalLM.fromConfig(
      new MambaConfig({ vocabSize: 400, hiddenSize: 64, numHiddenLayers: 8, ...fields }),
      { seed: 1 },
    );
    onTestFinished(() => model.dispose());
    const folder = join(temporaryFolder(), 'model');
    await model.savePretrained(folder);
    const kinds = await python.ask<Record<string, { drawn: boolean; distance: number }>>('init_distances', {
      model: folder,
      seed: 1,
      rescale_prenorm_residual: model.config.rescalePrenormResidual,
    });
    const drawn = Object.entries(kinds).filter(([, { drawn }]) => drawn);
    expect(drawn.map(([kind]) => kind)).toEqual(
      expect.arrayContaining([
        'backbone.embeddings.weight',
        'backbone.layers.mixer.out_proj.weight',
        'backbone.layers.mixer.dt_proj.bias',
      ]),
    );
    // A distance above 2.2 has probability 1e-4 when the distributions are one.
    for (const [kind, { distance }] of drawn) expect(distance, kind).toBeLessThan(2.2);
  });
});
