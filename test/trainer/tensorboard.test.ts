// SPDX-License-Identifier: Apache-2.0
/** What a run leaves in tensorboard/: what metrics.jsonl says, and its settings. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { selectBackend } from '../../src/backends/select.ts';
import { runTraining } from '../../trainer/index.ts';
import { bestBackend } from '../helpers/backends.ts';
import { readEventFolder, scalarsOf } from '../logging/read_event_file.ts';
import { readMetrics, readNorms, tinyProject } from './tiny_project.ts';

const quiet = { onMessage: () => {} };

beforeAll(async () => {
  await selectBackend(bestBackend);
});

describe('tensorboard/', () => {
  it('holds each number of metrics.jsonl, the settings, the config and the norms of the adapter', async () => {
    const project = await tinyProject();
    await runTraining(project.config(), quiet);
    const events = readEventFolder(join(project.outputDir, 'tensorboard'));
    const metrics = readMetrics(project.outputDir);

    const points = (key: string) =>
      metrics.flatMap((line): [number, number][] =>
        key in line ? [[line.step, Math.fround((line as unknown as Record<string, number>)[key] as number)]] : [],
      );
    for (const key of ['loss', 'grad_norm', 'learning_rate', 'tokens', 'tokens_per_second', 'peak_memory_bytes']) {
      expect(points(key), key).toHaveLength(4);
      expect(scalarsOf(events, `train/${key}`), key).toEqual(points(key));
    }
    for (const key of ['loss', 'perplexity', 'tokens', 'seconds']) {
      expect(points(`eval_${key}`), key).toHaveLength(2);
      expect(scalarsOf(events, `eval/${key}`), key).toEqual(points(`eval_${key}`));
    }
    expect(scalarsOf(events, 'train/epoch')).toEqual([3, 6, 9, 10].map((step) => [step, Math.fround(step / 5)]));

    const values = events.flatMap(({ step, values: some }) => some.map((value) => ({ step, ...value })));
    const config = readFileSync(join(project.outputDir, 'config.yaml'), 'utf8');
    const [text] = values.filter(({ tag }) => tag === 'config');
    expect(text?.text?.replace(/^ {4}/gm, '')).toBe(config);
    const settings = values.find(({ tag }) => tag === '_hparams_/session_start_info')?.content?.toString('latin1');
    for (const name of ['learning_rate', 'target_modules', 'x_proj, embeddings', 'lora_alpha', project.modelFolder]) {
      expect(settings).toContain(name);
    }
    expect(values.at(-1)?.tag).toBe('_hparams_/session_end_info');

    const norms = readNorms(project.outputDir);
    expect(norms.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    const last = norms.at(-1)?.adapter_norms ?? {};
    expect(Object.keys(last)).toHaveLength(2 * 3 + 1);
    const histograms = values.filter(({ tag, step }) => tag.startsWith('adapter_norms/') && step === 10);
    expect(histograms.map(({ tag, histogram }) => [tag, histogram?.num])).toEqual([
      ['adapter_norms/embeddings', 1],
      ['adapter_norms/in_proj', 2],
      ['adapter_norms/x_proj', 2],
      ['adapter_norms/out_proj', 2],
    ]);
    const ofInProj = [0, 1].map((layer) => last[`backbone.layers.${layer}.mixer.in_proj`]?.norm ?? 0);
    const inProj = histograms[1]?.histogram;
    expect([inProj?.min, inProj?.max]).toEqual([Math.min(...ofInProj), Math.max(...ofInProj)]);
    expect(inProj?.min).toBeGreaterThan(0);
  });

  it('is not made when logging.tensorboard is false', async () => {
    const project = await tinyProject();
    const config = project.config({ trainer: { max_steps: 1, eval_strategy: 'no' } });
    await runTraining({ ...config, logging: { ...config.logging, tensorboard: false } }, quiet);
    expect(existsSync(join(project.outputDir, 'metrics.jsonl'))).toBe(true);
    expect(existsSync(join(project.outputDir, 'tensorboard'))).toBe(false);
  });

  it('says of a run that failed that it did', async () => {
    const project = await tinyProject();
    await expect(runTraining(project.config({ trainer: { learning_rate: 1e30 } }), quiet)).rejects.toThrow(/step 2/);
    const end = readEventFolder(join(project.outputDir, 'tensorboard')).at(-1)?.values[0];
    expect(end?.tag).toBe('_hparams_/session_end_info');
    // HParamsPluginData { session_end_info { status: STATUS_FAILURE } }
    expect(end?.content?.subarray(2, 4)).toEqual(Buffer.of(8, 2));
  });
});
