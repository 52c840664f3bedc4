// SPDX-License-Identifier: Apache-2.0
/** A folder with all that a run needs: a tiny random model with the tokenizer of mamba-5m, data, a config. */
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type RunConfig, runConfigSchema } from '../../src/config/schema.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { MambaConfig } from '../../src/model/config.ts';
import type { Metrics, NormMetrics, SampleMetrics } from '../../trainer/index.ts';
import { bestBackend } from '../helpers/backends.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

export interface TinyProject {
  folder: string;
  modelFolder: string;
  /** 10 records; 3 for evaluation. */
  trainFile: string;
  evalFile: string;
  outputDir: string;
  /** A config that trains 2 epochs of 5 steps; each part may be changed. */
  config(changes?: { trainer?: object; adapter?: object; data?: object }): RunConfig;
}

/** Call inside a test, with a backend selected. */
export async function tinyProject(): Promise<TinyProject> {
  const folder = temporaryFolder();
  const modelFolder = join(folder, 'model');
  const shape = { vocabSize: 4096, hiddenSize: 16, stateSize: 4, numHiddenLayers: 2, timeStepRank: 2, eosTokenId: 0 };
  const model = MambaForCausalLM.fromConfig(new MambaConfig(shape), { seed: 3 });
  await model.savePretrained(modelFolder);
  model.dispose();
  for (const name of ['tokenizer.json', 'tokenizer_config.json']) {
    copyFileSync(join('models', 'mamba-5m', name), join(modelFolder, name));
  }
  const lines = readFileSync(join('datasets', 'quickstart', 'test.jsonl'), 'utf8').split('\n');
  const [trainFile, evalFile] = [join(folder, 'train.jsonl'), join(folder, 'eval.jsonl')];
  writeFileSync(trainFile, `${lines.slice(0, 10).join('\n')}\n`);
  writeFileSync(evalFile, `${lines.slice(10, 13).join('\n')}\n`);
  const outputDir = join(folder, 'run');
  return {
    folder,
    modelFolder,
    trainFile,
    evalFile,
    outputDir,
    config: ({ trainer, adapter, data } = {}) =>
      runConfigSchema.parse({
        model: { path: modelFolder },
        adapter: { r: 2, ...adapter },
        data: { train: { path: trainFile }, eval: { path: evalFile }, max_length: 24, ...data },
        trainer: {
          output_dir: outputDir,
          backend: bestBackend,
          seed: 1,
          num_train_epochs: 2,
          per_device_train_batch_size: 2,
          learning_rate: 0.01,
          logging_steps: 3,
          eval_strategy: 'epoch',
          ...trainer,
        },
      }),
  };
}

/** The lines of training and evaluation. */
export function readMetrics(folder: string): Exclude<Metrics, NormMetrics | SampleMetrics>[] {
  return readLines(folder).flatMap((line) => ('adapter_norms' in line || 'samples' in line ? [] : [line]));
}

/** The lines of samples. */
export function readSamples(folder: string): SampleMetrics[] {
  return readLines(folder).flatMap((line) => ('samples' in line ? [line] : []));
}

/** The lines of adapter norms. */
export function readNorms(folder: string): NormMetrics[] {
  return readLines(folder).flatMap((line) => ('adapter_norms' in line ? [line] : []));
}

function readLines(folder: string): Metrics[] {
  const lines = readFileSync(join(folder, 'metrics.jsonl'), 'utf8').trimEnd().split('\n');
  return lines.map((line) => JSON.parse(line) as Metrics);
}

export function readRecord(folder: string): Record<string, unknown> {
  return JSON.parse(readFileSync(join(folder, 'run.json'), 'utf8')) as Record<string, unknown>;
}
