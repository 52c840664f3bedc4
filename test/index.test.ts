// SPDX-License-Identifier: Apache-2.0
/** The public door: the programs of docs/design.md section 6 run as they stand there. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import {
  AutoTokenizer,
  getPeftModel,
  LoraConfig,
  loadDataset,
  MambaConfig,
  MambaForCausalLM,
  MambaModel,
  PeftModel,
  SFTTrainer,
  TrainingArguments,
} from '../src/index.ts';
import { testedBackends } from './helpers/backends.ts';
import { temporaryFolder } from './helpers/temporary_folder.ts';

const backend = testedBackends()[0];

test('generate from a folder', async () => {
  const tokenizer = await AutoTokenizer.fromPretrained('models/mamba-5m');
  const model = await MambaForCausalLM.fromPretrained('models/mamba-5m', { backend });
  const { inputIds } = tokenizer(['politician, n.']);
  const out = await model.generate(inputIds, { maxNewTokens: 10 });
  expect(tokenizer.batchDecode(out)).toEqual([expect.stringMatching(/^politician, n\. A person who is a member/)]);
  model.dispose();
});

test('tune with LoRA, and load the adapter again', async () => {
  const outputDir = join(temporaryFolder(), 'results');
  const tokenizer = await AutoTokenizer.fromPretrained('models/mamba-5m');
  const model = await MambaForCausalLM.fromPretrained('models/mamba-5m', { backend });
  const dataset = await loadDataset('datasets/quickstart', { split: 'test' });
  const trainer = new SFTTrainer({
    model,
    tokenizer,
    trainDataset: { ...dataset, records: dataset.records.slice(0, 4) },
    args: new TrainingArguments({
      outputDir,
      maxSteps: 2,
      perDeviceTrainBatchSize: 2,
      maxLength: 32,
      learningRate: 2e-3,
    }),
    peftConfig: new LoraConfig({
      r: 8,
      targetModules: ['x_proj', 'embeddings', 'in_proj', 'out_proj'],
      taskType: 'CAUSAL_LM',
      bias: 'none',
    }),
    onMessage: () => {},
  });
  const { adapterFolder, losses } = await trainer.train();
  expect(losses).toHaveLength(2);
  expect(existsSync(join(adapterFolder, 'adapter_model.safetensors'))).toBe(true);
  model.dispose();

  const base = await MambaForCausalLM.fromPretrained('models/mamba-5m', { backend });
  const tuned = PeftModel.fromPretrained(base, adapterFolder);
  expect(tuned.config.r).toBe(8);
  base.dispose();
});

test('models from a config', () => {
  const config = new MambaConfig({ vocabSize: 16, hiddenSize: 8, numHiddenLayers: 1, stateSize: 2 });
  const model = MambaForCausalLM.fromConfig(config);
  expect(getPeftModel(model, new LoraConfig({ r: 2 })).counts().trainable).toBeGreaterThan(0);
  model.dispose();
  const bare = MambaModel.fromConfig(config);
  expect(bare.parameters.has('lm_head.weight')).toBe(false);
  bare.dispose();
});
