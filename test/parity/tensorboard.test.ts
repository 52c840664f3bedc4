// SPDX-License-Identifier: Apache-2.0
/** A run's event files, opened by TensorBoard. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { selectBackend } from '../../src/backends/select.ts';
import { createEventWriter } from '../../src/logging/tensorboard/event_writer.ts';
import { runTraining } from '../../trainer/index.ts';
import { bestBackend } from '../helpers/backends.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { readMetrics, readNorms, tinyProject } from '../trainer/tiny_project.ts';
import { type Python, startPython } from './python.ts';

const interpreter = inject('python');

interface Answer {
  scalars: Record<string, [number, number][]>;
  plugin_scalars: string[];
  histograms: Record<string, { step: number; min: number; max: number; num: number; sum: number; counts: number }[]>;
  plugin_histograms: string[];
  texts: Record<string, [number, string][]>;
  hparams: Record<string, string | number | boolean>;
  experiment: string[];
  metrics: string[];
  status: number;
}

describe.runIf(interpreter)('event files in TensorBoard', () => {
  let python: Python;
  beforeAll(async () => {
    await selectBackend(bestBackend);
    python = startPython(interpreter as string);
  });
  afterAll(() => python.stop());

  it('say of a run what metrics.jsonl and its config say', async () => {
    const project = await tinyProject();
    await runTraining(project.config(), { onMessage: () => {} });
    const { outputDir } = project;
    const answer = await python.ask<Answer>('event_files', { folder: join(outputDir, 'tensorboard') });

    const [first] = readMetrics(outputDir);
    const losses = readMetrics(outputDir).flatMap((line) =>
      'loss' in line ? [[line.step, Math.fround(line.loss)]] : [],
    );
    expect(answer.scalars['train/loss']).toEqual(losses);
    expect(Object.keys(answer.scalars).sort()).toEqual(answer.plugin_scalars);
    expect(answer.plugin_scalars).toEqual([
      'eval/loss',
      'eval/perplexity',
      'eval/seconds',
      'eval/tokens',
      ...Object.keys(first ?? {})
        .filter((key) => key !== 'step')
        .map((key) => `train/${key}`)
        .sort(),
    ]);

    const norms = readNorms(outputDir).at(-1)?.adapter_norms ?? {};
    const ofOutProj = Object.entries(norms).flatMap(([name, { norm }]) => (name.endsWith('out_proj') ? [norm] : []));
    const histogram = answer.histograms['adapter_norms/out_proj'];
    expect(histogram).toHaveLength(10);
    expect(histogram?.at(-1)).toMatchObject({ step: 10, num: 2, counts: 2, min: Math.min(...ofOutProj) });
    expect(answer.plugin_histograms).toEqual(Object.keys(answer.histograms).sort());

    const [[step, config] = [-1, '']] = answer.texts.config ?? [];
    expect(step).toBe(0);
    expect(config.replace(/^ {4}/gm, '')).toBe(readFileSync(join(outputDir, 'config.yaml'), 'utf8'));
    expect(answer.hparams).toMatchObject({ learning_rate: 0.01, r: 2, optim: 'adamw', gradient_checkpointing: false });
    expect(Object.keys(answer.hparams).sort()).toEqual(answer.experiment);
    expect(answer.metrics).toContain('train/loss');
    expect(answer.status).toBe(1);
  });

  it('of a resumed run lose what the first one did after its checkpoint', async () => {
    const folder = temporaryFolder();
    const first = createEventWriter(folder);
    first.hparams({ seed: 1 }, []);
    first.text(0, 'config', 'seed: 1');
    first.histogram(1, 'adapter_norms/out_proj', [1, 2]);
    for (let step = 1; step <= 5; step++) first.scalars(step, { 'train/loss': step });
    first.close();
    const second = createEventWriter(folder, { purgeStep: 4 });
    for (let step = 4; step <= 6; step++) second.scalars(step, { 'train/loss': 10 * step });
    second.close('success');
    const { scalars, status } = await python.ask<Answer>('event_files', { folder });
    expect(scalars['train/loss']).toEqual([1, 2, 3, 40, 50, 60].map((loss, i) => [i + 1, loss]));
    expect(status).toBe(1);
  });
});
