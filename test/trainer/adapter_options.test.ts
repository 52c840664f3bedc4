// SPDX-License-Identifier: Apache-2.0
/** Whole runs with each adapter option: everything that should train gets a gradient, and the saved adapter is what was trained. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { selectBackend } from '../../src/backends/select.ts';
import type { CoverageRow } from '../../trainer/coverage.ts';
import { runTraining } from '../../trainer/index.ts';
import { bestBackend } from '../helpers/backends.ts';
import { liveMemory } from '../helpers/memory.ts';
import { readMetrics, tinyProject } from './tiny_project.ts';

beforeAll(async () => {
  await selectBackend(bestBackend);
});

it.each<[object, number]>([
  [{ use_dora: true, target_modules: 'all-linear' }, 2 * 4 * 3],
  [{ target_modules: 'all-linear', lora_bias: true }, 2 * 4 * 3],
  [{ target_modules: ['in_proj'], trainable_token_indices: [5, 0, 96] }, 4 + 1],
  [{ bias: 'all' }, 14 + 2 * 2],
  [{ target_modules: ['dt_proj'], bias: 'lora_only' }, 4 + 2],
  [
    {
      target_modules: ['in_proj'],
      modules_to_save: ['A_log', 'D', 'conv1d', 'norm', 'norm_f', 'lm_head', 'dt_proj.bias'],
    },
    4 + 2 * 6 + 2,
  ],
  [
    {
      target_modules: ['in_proj', 'x_proj'],
      layers_to_transform: 1,
      rank_pattern: { x_proj: 1 },
      alpha_pattern: { x_proj: 2 },
    },
    4,
  ],
])('%j', async (adapter, tensors) => {
  const project = await tinyProject();
  const before = liveMemory();
  const result = await runTraining(project.config({ adapter }), { onMessage: () => {} });
  expect(liveMemory(), 'nothing is left behind').toEqual(before);
  const rows = JSON.parse(readFileSync(join(project.outputDir, 'coverage.json'), 'utf8')) as CoverageRow[];
  expect(rows).toHaveLength(tensors);
  for (const { name, grad_norm } of rows) expect(grad_norm, name).toBeGreaterThan(0);

  const next = { output_dir: join(project.folder, 'second'), learning_rate: 1e-12, max_steps: 1 };
  const again = project.config({ trainer: next, adapter: { ...adapter, init_from: result.adapterFolder } });
  const { evalLosses } = await runTraining(again, { onMessage: () => {} });
  const [, end] = readMetrics(project.outputDir).filter((line) => 'eval_loss' in line);
  expect(evalLosses[0]?.loss).toBeCloseTo(end?.eval_loss ?? 0, 5);
});
