// SPDX-License-Identifier: Apache-2.0
/** A run killed by SIGKILL at 60 seeded moments, in saves too, against the run that nothing stopped. */
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { selectBackend } from '../../src/backends/select.ts';
import { runTraining } from '../../trainer/index.ts';
import { bestBackend } from '../helpers/backends.ts';
import { expectSameRun } from '../trainer/compare_runs.ts';
import { configFile, trainThroughKills } from '../trainer/killed_run.ts';
import { readRecord, tinyProject } from '../trainer/tiny_project.ts';

const KILLS = 60;

it('ends bit-identical after 60 kills', async () => {
  await selectBackend(bestBackend);
  const project = await tinyProject();
  const config = (trainer: object) =>
    project.config({
      trainer: {
        max_steps: 600,
        gradient_accumulation_steps: 2,
        save_strategy: 'steps',
        save_steps: 1,
        save_total_limit: 2,
        eval_strategy: 'steps',
        eval_steps: 7,
        ...trainer,
      },
      adapter: { lora_dropout: 0.1 },
    });
  const whole = join(project.folder, 'whole');
  await runTraining(config({ output_dir: whole }), { onMessage: () => {} });
  const path = configFile(config({}), project.folder);
  const { kills, inSaves, code, stderr } = await trainThroughKills(path, project.outputDir, KILLS, 7);
  expect({ kills, code }, stderr).toEqual({ kills: KILLS, code: 0 });
  expect(inSaves).toBeGreaterThan(5);
  expectSameRun(project.outputDir, whole);
  const { resumes } = readRecord(project.outputDir) as { resumes: unknown[] };
  console.log(`${kills} kills, ${inSaves} of them while a checkpoint was written; resumed ${resumes.length} times`);
}, 1_200_000);
