// SPDX-License-Identifier: Apache-2.0
/** adapter.type: full: every parameter trains, and what is written is a model folder that loads, resumes and generates. */
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it, onTestFinished } from 'vitest';
import { selectBackend } from '../../src/backends/select.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import type { CoverageRow } from '../../trainer/coverage.ts';
import { runTraining } from '../../trainer/index.ts';
import { bestBackend } from '../helpers/backends.ts';
import { liveMemory } from '../helpers/memory.ts';
import { readMetrics, tinyProject } from './tiny_project.ts';

const quiet = { onMessage: () => {} };
const full = { adapter: { type: 'full', r: undefined } };

beforeAll(async () => {
  await selectBackend(bestBackend);
});

it('trains every parameter, and writes model folders', async () => {
  const project = await tinyProject();
  const messages: string[] = [];
  const before = liveMemory();
  const result = await runTraining(project.config({ ...full, trainer: { learning_rate: 1e-3 } }), {
    onMessage: (line) => messages.push(line),
  });
  expect(liveMemory()).toEqual(before);
  expect(result.adapterFolder).toBe(join(project.outputDir, 'model'));
  expect(result.trainable).toBe(result.all);
  expect(existsSync(join(project.outputDir, 'adapter'))).toBe(false);
  expect(messages.at(-1)).toMatch(/; the model is in .*model$/);
  expect(result.losses.at(-1)).toBeLessThan(result.losses[0] as number);

  const model = await MambaForCausalLM.fromPretrained(result.adapterFolder, { backend: bestBackend });
  onTestFinished(() => model.dispose());
  expect(existsSync(join(result.adapterFolder, 'tokenizer.json'))).toBe(true);
  const rows = JSON.parse(readFileSync(join(project.outputDir, 'coverage.json'), 'utf8')) as CoverageRow[];
  expect(rows.map(({ name }) => name).sort()).toEqual([...model.parameters.keys()].sort());
  for (const { name, grad_norm } of rows) expect(grad_norm, name).toBeGreaterThan(0);

  const next = { output_dir: join(project.folder, 'second'), learning_rate: 1e-12, max_steps: 1 };
  const config = project.config({ ...full, trainer: next });
  const again = { ...config, model: { ...config.model, path: result.adapterFolder } };
  const { evalLosses } = await runTraining(again, quiet);
  const [, end] = readMetrics(project.outputDir).filter((line) => 'eval_loss' in line);
  expect(evalLosses[0]?.loss).toBeCloseTo(end?.eval_loss ?? 0, 5);
});

it('goes on from a checkpoint to the same end, to the bit', async () => {
  const project = await tinyProject();
  const config = project.config({ ...full, trainer: { save_strategy: 'steps', save_steps: 4, learning_rate: 1e-3 } });
  await runTraining(config, quiet);
  const end = () => readFileSync(join(project.outputDir, 'model', 'model.safetensors'));
  const whole = end();
  for (const name of ['model', 'checkpoint-8', 'checkpoint-10']) {
    rmSync(join(project.outputDir, name), { recursive: true });
  }
  await runTraining(config, { ...quiet, resume: true });
  expect(end().equals(whole)).toBe(true);
});
