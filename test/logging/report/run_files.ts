// SPDX-License-Identifier: Apache-2.0
/** Run folders with everything that the report shows, made up. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface MadeUpRun {
  /** Steps; a line of metrics each. */
  steps?: number;
  layers?: number;
  learningRate?: number;
  record?: object;
  /** More lines of metrics. */
  lines?: object[];
}

/** Writes a run folder and returns it. */
export function writeRun(folder: string, run: MadeUpRun = {}): string {
  const { steps = 60, layers = 3, learningRate = 0.002, record = {}, lines = [] } = run;
  mkdirSync(folder, { recursive: true });
  const write = (name: string, text: string) => writeFileSync(join(folder, name), text);
  const metrics: object[] = [sample(0, 'before'), ...lines];
  for (let step = 1; step <= steps; step++) {
    metrics.push({
      step,
      epoch: step / 50,
      loss: 4.6 - step / 100 + ((step * 7) % 5) / 10,
      grad_norm: 3 + ((step * 13) % 7),
      learning_rate: learningRate * (1 - step / steps),
      tokens: 250 * step,
      tokens_per_second: 5000 + ((step * 11) % 9) * 100,
      peak_memory_bytes: 138_412_032,
    });
    if (step % 20 !== 0) continue;
    metrics.push(
      {
        step,
        epoch: step / 50,
        eval_loss: 4.2 - step / 200,
        eval_perplexity: Math.exp(4.2 - step / 200),
        eval_tokens: 900,
        eval_seconds: 1,
      },
      { step, epoch: step / 50, adapter_norms: norms(step, layers) },
      sample(step, `written at step ${step}`),
    );
  }
  write('metrics.jsonl', metrics.map((line) => `${JSON.stringify(line)}\n`).join(''));
  write(
    'run.json',
    JSON.stringify({
      mambatune: '0.1.0',
      started_at: '2026-11-24T07:36:59.584Z',
      backend: 'native',
      versions: { node: '20.20.2' },
      machine: { cpu: 'EPYC', threads: 2, memory_bytes: 2 ** 33 },
      model: { name: 'models/mamba-5m', revision: 'main', sha256: { 'model.safetensors': 'ab12' } },
      init_from: null,
      data: {
        train: { name: 'train.jsonl', examples: 840, tokens: 43_000, loss_tokens: 43_000, sha256: 'cd34' },
        eval: null,
      },
      status: 'finished',
      finished_at: '2026-11-24T07:38:02.000Z',
      result: { trainable: 201_728, all: 4_754_688, seconds: 62 },
      ...record,
    }),
  );
  write(
    'config.yaml',
    `adapter:\n  type: lora\n  r: 8\ntrainer:\n  output_dir: ${folder}\n  learning_rate: ${learningRate}\n`,
  );
  write(
    'coverage.json',
    JSON.stringify([
      { name: 'layers.0.in_proj.lora_A.weight', shape: [8, 256], grad_norm: 0.25, step: 2 },
      { name: 'layers.0.in_proj.lora_B.weight', shape: [1024, 8], grad_norm: null, step: null },
    ]),
  );
  return folder;
}

function sample(step: number, completion: string): object {
  return { step, epoch: step / 50, samples: [{ prompt: 'politician, n.', completion }] };
}

function norms(step: number, layers: number): object {
  const norm = (share: number) => ({ norm: 40 * share, relative: share });
  const entries = Array.from({ length: layers }, (_, layer) => [
    [`backbone.layers.${layer}.mixer.in_proj`, norm((step * (layer + 1)) / 4000)],
    [`backbone.layers.${layer}.mixer.x_proj`, norm((step * (layer + 2)) / 9000)],
  ]).flat();
  return Object.fromEntries([['backbone.embeddings', norm(0.2)], ...entries]);
}
