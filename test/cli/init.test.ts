// SPDX-License-Identifier: Apache-2.0
/** mambatune init: what it asks, what it writes, what it refuses. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { runCli } from './run_cli.ts';

describe('mambatune init', () => {
  it('--yes writes a config that loads, with a comment for each key', async () => {
    const path = join(temporaryFolder(), 'first.yaml');
    const { code, stdout } = await runCli(['init', path, '--yes']);
    expect([code, stdout]).toEqual([0, `${path}\nNext:  mambatune train ${path}\n`]);
    const { config } = loadConfig(path);
    expect(config).toMatchObject({
      model: { path: 'models/mamba-5m' },
      data: { train: { path: 'datasets/quickstart/train.jsonl' }, eval: { path: 'datasets/quickstart/test.jsonl' } },
      trainer: { output_dir: 'runs/first', num_train_epochs: 3, eval_strategy: 'epoch' },
      logging: { tensorboard: true },
    });
    const lines = readFileSync(path, 'utf8').split('\n');
    const keys = lines.flatMap((line, i) => (/^\s*\w+:/.test(line) ? [i] : []));
    expect(keys.length).toBeGreaterThan(20);
    for (const i of keys) expect(lines[i - 1], lines[i]).toMatch(/^\s*#/);
  });

  it('asks for model, data, epochs and folder; an empty answer is the default, a wrong one is asked again', async () => {
    const path = join(temporaryFolder(), 'run.yaml');
    const answers = [
      'state-spaces/mamba-130m-hf',
      'no such file',
      'Abirate/english_quotes',
      '',
      'many',
      '0.5',
      'runs/x',
    ];
    const { code, stderr } = await runCli(['init', path], { stdin: `${answers.join('\n')}\n` });
    expect(code).toBe(0);
    expect(stderr).toContain('Base model, a folder or a Hub id [models/mamba-5m] ');
    expect(stderr).toContain('There is no no such file here, and it is no dataset of the Hub (owner/name).');
    expect(stderr).toContain('Records to evaluate on, - for none [-] ');
    expect(stderr).toContain('Expected a number above 0.');
    const { model, data, trainer } = loadConfig(path).config;
    expect(model.path).toBe('state-spaces/mamba-130m-hf');
    expect(data).toMatchObject({ train: { hub: 'Abirate/english_quotes', path: null }, eval: null, max_length: 1024 });
    expect(trainer).toMatchObject({ output_dir: 'runs/x', num_train_epochs: 0.5, eval_strategy: 'no' });
  });

  it('shows the file as JSON', async () => {
    const path = join(temporaryFolder(), 'run.yaml');
    const { code, stdout } = await runCli(['init', path, '--yes', '--json']);
    expect([code, JSON.parse(stdout)]).toEqual([0, { config: path }]);
  });

  it('replaces no file', async () => {
    const path = join(temporaryFolder(), 'run.yaml');
    writeFileSync(path, 'mine');
    const { code, stderr } = await runCli(['init', path, '--yes']);
    expect(code).toBe(2);
    expect(stderr).toContain(`${path} exists; give another name, or move it away.`);
    expect(readFileSync(path, 'utf8')).toBe('mine');
  });

  it('writes nothing when the answers end early', async () => {
    const path = join(temporaryFolder(), 'run.yaml');
    const { code, stderr } = await runCli(['init', path], { stdin: 'models/mamba-5m\n' });
    expect(code).toBe(2);
    expect(stderr).toContain('the answers end before the questions');
    expect(existsSync(path)).toBe(false);
  });
});
