// SPDX-License-Identifier: Apache-2.0
/** Recorded steps against steps that run as they come, and a run against itself, bit for bit. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { runTraining, type TrainingResult } from '../../trainer/index.ts';
import { onBackend } from '../helpers/backends.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { tinyProject } from '../trainer/tiny_project.ts';

interface Run {
  result: TrainingResult;
  adapter: Buffer;
}

/** Trains 5 epochs with dropout; shapes differ from batch to batch and come again. */
async function train(changes: { trainer?: object; model?: object; adapter?: object } = {}): Promise<Run> {
  const project = await tinyProject();
  const outputDir = join(temporaryFolder(), 'run');
  const config = project.config({
    adapter: { lora_dropout: 0.1, ...changes.adapter },
    trainer: { num_train_epochs: 5, output_dir: outputDir, ...changes.trainer },
  });
  const result = await runTraining(
    { ...config, model: { ...config.model, ...changes.model } },
    { onMessage: () => {} },
  );
  return { result, adapter: readFileSync(join(outputDir, 'adapter', 'adapter_model.safetensors')) };
}

onBackend('cuda', () => {
  it.each(['highest', 'high', 'medium'])(
    '%s: two runs with one seed give the same losses and the same adapter, bit for bit',
    async (precision) => {
      const runs = [
        await train({ model: { matmul_precision: precision } }),
        await train({ model: { matmul_precision: precision } }),
      ];
      const [first, second] = runs as [Run, Run];
      expect(first.result.steps).toBe(25);
      expect(second.result.losses).toEqual(first.result.losses);
      expect(second.result.gradNorms).toEqual(first.result.gradNorms);
      expect(second.adapter.equals(first.adapter)).toBe(true);
    },
  );

  it('cuda_graphs: true and false give the same losses and the same adapter, bit for bit', async () => {
    const recorded = await train({ trainer: { cuda_graphs: true } });
    const eager = await train({ trainer: { cuda_graphs: false } });
    expect(recorded.result.losses).toEqual(eager.result.losses);
    expect(recorded.result.gradNorms).toEqual(eager.result.gradNorms);
    expect(recorded.adapter.equals(eager.adapter)).toBe(true);
  });

  it.each([
    { use_dora: true },
    { use_dora: true, target_modules: ['conv1d', 'in_proj', 'embeddings'] },
    { target_modules: ['in_proj'], trainable_token_indices: [5, 0, 96] },
  ])('%j: recorded and eager steps are the same, bit for bit', async (adapter) => {
    const recorded = await train({ adapter });
    const eager = await train({ adapter, trainer: { cuda_graphs: false } });
    expect(recorded.result.losses).toEqual(eager.result.losses);
    expect(recorded.adapter.equals(eager.adapter)).toBe(true);
  });

  it('another seed gives another adapter', async () => {
    const [first, second] = [await train(), await train({ trainer: { seed: 2 } })];
    expect(second.adapter.equals(first.adapter)).toBe(false);
  });
});
