// SPDX-License-Identifier: Apache-2.0
/** FalconMamba as a user has it: trained two steps, merged, and the merged model writes what base and adapter write. */
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { stringify } from 'yaml';
import { selectBackend } from '../../src/backends/select.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { MambaConfig } from '../../src/model/config.ts';
import { bestBackend } from '../helpers/backends.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { runCli, runJson } from './run_cli.ts';

const SHAPE = { vocabSize: 4096, hiddenSize: 16, stateSize: 4, numHiddenLayers: 2, timeStepRank: 2, eosTokenId: 0 };

/** A random model with the tokenizer of mamba-5m. */
async function randomModel(folder: string): Promise<string> {
  await selectBackend(bestBackend);
  const config = new MambaConfig({ ...SHAPE, modelType: 'falcon_mamba', initializerRange: 0.3 });
  const model = MambaForCausalLM.fromConfig(config, { seed: 3 });
  const path = join(folder, 'model');
  await model.savePretrained(path);
  model.dispose();
  for (const name of ['tokenizer.json', 'tokenizer_config.json'])
    copyFileSync(join('models', 'mamba-5m', name), join(path, name));
  return path;
}

test('train, merge, generate', async () => {
  const folder = temporaryFolder();
  const model = await randomModel(folder);
  const data = join(folder, 'train.jsonl');
  const records = readFileSync('datasets/quickstart/test.jsonl', 'utf8').split('\n');
  writeFileSync(data, `${records.slice(0, 4).join('\n')}\n`);
  const config = join(folder, 'config.yaml');
  const trainer = {
    output_dir: join(folder, 'run'),
    backend: bestBackend,
    max_steps: 2,
    per_device_train_batch_size: 2,
    learning_rate: 0.5,
  };
  writeFileSync(
    config,
    stringify({ model: { path: model }, data: { train: { path: data }, max_length: 32 }, trainer }),
  );

  const trained = await runJson<{ steps: number; losses: number[]; adapter_folder: string }>(['train', config]);
  expect(trained.code, trained.stderr).toBe(0);
  expect(trained.value.steps).toBe(2);
  expect(trained.value.losses).toHaveLength(2);
  const adapter = trained.value.adapter_folder;

  const output = join(folder, 'merged');
  const backend = ['--backend', bestBackend];
  const merged = await runCli(['merge', ...backend, '--model', model, '--adapter', adapter, '--output', output]);
  expect(merged.code, merged.stderr).toBe(0);
  expect(JSON.parse(readFileSync(join(output, 'config.json'), 'utf8'))).toMatchObject({ model_type: 'falcon_mamba' });

  const write = async (...argv: string[]) => {
    const { code, stdout, stderr } = await runCli([
      'generate',
      ...backend,
      ...argv,
      '--max-new-tokens',
      '12',
      '--prompt',
      'A',
    ]);
    expect(code, stderr).toBe(0);
    return stdout;
  };
  const adapted = await write('--model', model, '--adapter', adapter);
  expect(await write('--model', output)).toBe(adapted);
  expect(await write('--model', model)).not.toBe(adapted);
});
