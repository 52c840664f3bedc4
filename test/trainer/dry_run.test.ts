// SPDX-License-Identifier: Apache-2.0
/** A planned run is the run that is then made: its steps, tokens, parameters and memory; and a config's problems come together. */
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import type { DeviceBackend } from '../../src/backends/device_backend.ts';
import { formatConfig } from '../../src/config/load.ts';
import type { RunConfig } from '../../src/config/schema.ts';
import { ConfigError } from '../../src/errors.ts';
import { type DryRun, dryRun, runTraining } from '../../trainer/index.ts';
import { onBackend } from '../helpers/backends.ts';
import { type TinyProject, tinyProject } from './tiny_project.ts';

const quiet = { onMessage: () => {} };

function plan(project: TinyProject, config: RunConfig, timedSteps = 0): Promise<DryRun> {
  const path = join(project.folder, 'run.yaml');
  writeFileSync(path, formatConfig(config));
  return dryRun(path, [], { ...quiet, timedSteps });
}

describe('a planned run', () => {
  onBackend('native', () => {
    const MAMBA_5M = { model: { path: 'models/mamba-5m', revision: 'main', matmul_precision: 'highest' as const } };

    it.each([
      ['4x64', { max_length: 64 }, { per_device_train_batch_size: 4 }, {}],
      ['8x256, packed', { max_length: 256, packing: true }, { per_device_train_batch_size: 8 }, {}],
      ['with checkpoints', { max_length: 128 }, { gradient_checkpointing: true, group_by_length: true }, {}],
      [
        'of 2 batches a step, with dropout',
        { max_length: 64 },
        { gradient_accumulation_steps: 2 },
        { lora_dropout: 0.1 },
      ],
      ['of a whole model', { max_length: 32 }, {}, { type: 'full', r: 8 }],
    ])('%s: is what the run is, and its memory within 5 %%', async (_, data, trainer, adapter) => {
      const project = await tinyProject();
      const { eval: __, ...withoutEval } = data as Record<string, unknown>;
      const settings = { num_train_epochs: 1, backend: 'native', eval_strategy: 'no', ...trainer };
      const config = {
        ...project.config({ data: { ...withoutEval, eval: null }, trainer: settings, adapter }),
        ...MAMBA_5M,
      };
      const planned = await plan(project, config);
      expect(existsSync(project.outputDir)).toBe(false);
      expect(tf.getBackend()).toBe('native');

      const backend = tf.backend() as DeviceBackend;
      backend.addon.resetPeak(backend.device);
      const idle = backend.memoryStats().liveBytes;
      const made = await runTraining(config, quiet);
      expect(planned).toMatchObject({
        steps: made.steps,
        epochs: made.epochs,
        tokens: made.tokens,
        trainable: made.trainable,
        all: made.all,
      });
      const memory = planned.memory as NonNullable<DryRun['memory']>;
      const ratio = memory.peak_bytes / (made.peakMemoryBytes - idle);
      expect(ratio).toBeGreaterThan(0.95);
      expect(ratio).toBeLessThan(1.05);
      const { peak_bytes, ...parts } = memory;
      expect(Object.values(parts).reduce((sum, bytes) => sum + bytes, 0)).toBe(peak_bytes);
      const shares = planned.modules.map(({ share }) => share);
      expect(shares.reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 12);
    });

    it('counts padding as batches are made, and knows the largest', async () => {
      const project = await tinyProject();
      const lines = [3, 5, 4, 4].map((length) => JSON.stringify({ input_ids: Array(length).fill(7) }));
      writeFileSync(project.trainFile, lines.join('\n'));
      const of = (trainer: object, data: object = {}) =>
        plan(
          project,
          project.config({
            trainer: { num_train_epochs: 1, backend: 'native', ...trainer },
            data: { shuffle: false, ...data },
          }),
        );
      const ordered = await of({});
      expect(ordered).toMatchObject({ steps: 2, tokens: 16, tokens_per_epoch: 16, rows: 4 });
      expect(ordered.padding).toBeCloseTo(1 - 16 / 18, 12);
      expect(ordered.largest_batch).toEqual({ batch: 2, seqlen: 5 });
      expect((await of({ group_by_length: true }, { shuffle: true })).padding).toBeCloseTo(1 - 16 / 18, 12);
      const packed = await of({ per_device_train_batch_size: 1 }, { packing: true, max_length: 8 });
      expect(packed).toMatchObject({ rows: 2, tokens: 16, padding: 0 });
    });

    it('tells the time of a run from steps that it takes', async () => {
      const project = await tinyProject();
      const planned = await plan(project, project.config(), 2);
      expect(planned.time).toMatchObject({ timed_steps: 2 });
      expect(planned.time?.seconds).toBeGreaterThan(0);
      expect(planned.time?.seconds).toBeCloseTo((planned.time?.seconds_per_step ?? 0) * planned.steps, 9);
      expect(existsSync(project.outputDir)).toBe(false);
    });

    it('has every problem of the config, the paths, the data and the adapter in one error', async () => {
      const project = await tinyProject();
      const path = join(project.folder, 'wrong.yaml');
      writeFileSync(join(project.folder, 'notes.txt'), 'not a run');
      writeFileSync(
        path,
        `model: {path: ${project.modelFolder}}
adapter: {target_modules: [in_porj]}
data:
  train: {path: ${project.trainFile}, text_field: txt}
  eval: {path: ${project.evalFile}, prompt_field: question}
trainer: {output_dir: ${project.folder}, learning_rat: 1, num_train_epochs: -1}
`,
      );
      const error: unknown = await dryRun(path, [], { ...quiet, timedSteps: 0 }).catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(ConfigError);
      const { message } = error as Error;
      expect(message).toMatch(/wrong\.yaml: 5 problems\n/);
      expect(message).toMatch(/wrong\.yaml:6:\d+: trainer\.learning_rat: unknown key; did you mean learning_rate\?/);
      expect(message).toMatch(/wrong\.yaml:6:\d+: trainer\.num_train_epochs: found -1/);
      expect(message).toMatch(/train\.jsonl:1: field txt is missing/);
      expect(message).toMatch(/eval\.jsonl:1: field question is missing/);
      expect(message).toMatch(/target_modules: in_porj matches no module/);
      await expect(dryRun(path, ['trainer={output_dir: x}'], { ...quiet, timedSteps: 0 })).rejects.toThrow(
        /3 problems/,
      );
    });

    it('refuses a folder of something else, as the run would', async () => {
      const project = await tinyProject();
      const config = project.config({ trainer: { output_dir: project.folder } });
      await expect(plan(project, config)).rejects.toThrow(/is not empty .* holds no run\.json/);
    });
  });
});
