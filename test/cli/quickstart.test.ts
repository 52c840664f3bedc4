// SPDX-License-Identifier: Apache-2.0
/** mambatune quickstart, shortened: before, after, and commands that work. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { QuickstartReport } from '../../src/cli/run_quickstart.ts';
import { testedBackends } from '../helpers/backends.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { type JsonError, runCli, runJson } from './run_cli.ts';

type ReportJson = Omit<QuickstartReport, 'adapterFolder'> & { adapter_folder: string };

/** --set options for one step, and an evaluation on the three records that are shown. */
function shortened(folder: string): string[] {
  const records = readFileSync('datasets/quickstart/test.jsonl', 'utf8').split('\n');
  const shown = records.filter((line) => /"(religion|economy|admiration), n\."/.test(line));
  writeFileSync(join(folder, 'test.jsonl'), shown.join('\n'));
  const settings = {
    'trainer.backend': testedBackends()[0],
    'trainer.max_steps': 1,
    'trainer.output_dir': join(folder, 'run'),
    'data.eval.path': join(folder, 'test.jsonl'),
  };
  return Object.entries(settings).flatMap(([key, value]) => ['--set', `${key}=${value}`]);
}

test('shows before and after, and what to type next works', async () => {
  const folder = temporaryFolder();
  const { code, stdout, stderr } = await runCli(['quickstart', ...shortened(folder)], { columns: 80 });
  expect(code, stderr).toBe(0);
  const table = stdout.slice(stdout.indexOf('before'), stdout.indexOf('test loss')).split('\n');
  expect(table[0]).toMatch(/^before +│ after 1 step$/);
  expect(table.filter((line) => line.includes('┼'))).toHaveLength(3);
  for (const prompt of ['religion, n.', 'economy, n.', 'admiration, n.']) expect(table).toContain(prompt);
  expect(Math.max(...table.map((line) => line.length))).toBeLessThanOrEqual(80);
  expect(stdout).toMatch(/^test loss {3}(\d\.\d+) → (\d\.\d+) /m);
  expect(stdout).toContain(`adapter     ${join(folder, 'run', 'adapter')}\n`);
  expect(stdout).not.toContain('\x1b');

  const commands = stdout.split('Next:\n')[1]?.split('\n').filter(Boolean) ?? [];
  expect(commands.map((line) => line.trim().split(' ')[2])).toEqual(['generate', 'eval', 'merge']);
  for (const command of commands) {
    const words = Array.from(command.trim().matchAll(/"([^"]*)"|\S+/g), ([word, quoted]) => quoted ?? word);
    const extra = words[2] === 'eval' ? shortened(folder).filter((_, index) => index < 2 || index > 5) : [];
    const run = await runCli([...words.slice(2), ...extra]);
    expect(run.code, run.stderr).toBe(0);
  }
});

test('--json', async () => {
  const { code, value } = await runJson<ReportJson>(['quickstart', ...shortened(temporaryFolder())]);
  expect(code).toBe(0);
  expect(value).toMatchObject({ steps: 1, prompts: ['religion, n.', 'economy, n.', 'admiration, n.'] });
  expect(value.before.completions).toHaveLength(3);
  expect(value.after.loss).not.toBe(value.before.loss);
});

test('records without the prompts that are shown are refused', async () => {
  const folder = temporaryFolder();
  const argv = ['quickstart', ...shortened(folder), '--set', 'data.eval.path=datasets/quickstart/train.jsonl'];
  const { code, value } = await runJson<JsonError>(argv);
  expect(code).toBe(2);
  expect(value.error.message).toMatch(/found no record with the prompt religion, n\./);
});
