// SPDX-License-Identifier: Apache-2.0
/** mambatune merge: the merged folder computes and writes what base and adapter do; places that cannot be written. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { testedBackends } from '../helpers/backends.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { type JsonError, runCli, runJson } from './run_cli.ts';

interface MergeJson {
  output: string;
  merged_modules: string[];
  max_abs_logit_difference: number;
}

const BACKEND = ['--backend', testedBackends()[0] as string];
const ADAPTER = join('test', 'golden', 'seed-recipe', 'adapter_final');
const MERGE = ['merge', ...BACKEND, '--model', 'models/mamba-5m', '--adapter', ADAPTER];

test('the merged model writes what base and adapter write', async () => {
  const output = join(temporaryFolder(), 'merged');
  const { code, stdout } = await runCli([...MERGE, '--output', output, '--dtype', 'float32']);
  expect(code).toBe(0);
  expect(stdout).toMatch(
    /^merged 25 modules of models\/mamba-5m .*\(F32\)\n.*lm_head\.weight.*\non 119 tokens of built-in text: logits differ by up to .*of logits up to .*; KL .*likeliest token at 100 %\n$/,
  );
  expect(readdirSync(output).sort()).toEqual([
    ...['config.json', 'generation_config.json', 'merge_receipt.json', 'model.safetensors'],
    ...['tokenizer.json', 'tokenizer_config.json'],
  ]);
  expect(JSON.parse(readFileSync(join(output, 'config.json'), 'utf8'))).toMatchObject({ tie_word_embeddings: false });
  const generated = await runCli([
    'generate',
    ...BACKEND,
    '--model',
    output,
    '--prompt',
    'love, n.',
    '--prompt',
    'lawyer, n.',
  ]);
  expect(generated.stdout).toBe('love, n. A woman who has a lover.\n\nlawyer, n. One who holds the law of the law.\n');
});

test('options reach the merge; --json is the receipt', async () => {
  const folder = temporaryFolder();
  const output = join(folder, 'merged');
  const probe = join(folder, 'probe.txt');
  writeFileSync(probe, 'love, n.');
  const options = ['--dtype', 'float32', '--max-shard-size', '3MB', '--tied-embeddings', 'tied_both', '--probe', probe];
  const { code, value } = await runJson<MergeJson>([...MERGE, '--output', output, ...options]);
  expect(code).toBe(0);
  const { output: named, ...receipt } = value;
  expect(named).toBe(output);
  expect(receipt).toEqual(JSON.parse(readFileSync(join(output, 'merge_receipt.json'), 'utf8')));
  expect(receipt).toMatchObject({
    result: { dtypes: ['F32'] },
    tied_embeddings: { policy: 'tied_both', head: 'changed with the embeddings' },
    probe: { source: probe },
    tolerance: 1e-4,
  });
  expect(value.merged_modules).toHaveLength(25);
  expect(value.max_abs_logit_difference).toBeLessThan(1e-4);
  expect(readdirSync(output).filter((name) => name.endsWith('.safetensors'))).toHaveLength(7);
});

test('--peft-compatible writes a model and an adapter for it', async () => {
  const output = join(temporaryFolder(), 'export');
  const { code, stdout } = await runCli([...MERGE, '--output', output, '--dtype', 'float32', '--peft-compatible']);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^merged 9 modules .*\nleft 16 modules in .*export\/adapter for peft, on .*export\/model\n/);
  const generate = ['generate', ...BACKEND, '--adapter', join(output, 'adapter'), '--prompt', 'love, n.'];
  expect((await runCli(generate)).stdout).toBe('love, n. A woman who has a lover.\n');
});

describe('errors', () => {
  test('an output folder that holds something stays as it is', async () => {
    const output = temporaryFolder();
    writeFileSync(join(output, 'mine.txt'), 'mine');
    const { code, value } = await runJson<JsonError>([...MERGE, '--output', output]);
    expect(code).toBe(1);
    expect(value.error.message).toMatch(/is not empty; choose another folder/);
    expect(readdirSync(output)).toEqual(['mine.txt']);
  });

  test('a place that cannot be written', async () => {
    const file = join(temporaryFolder(), 'file');
    writeFileSync(file, '');
    const { code, stderr } = await runCli([...MERGE, '--output', join(file, 'merged')]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/cannot write .*file\/merged: /);
    expect(stderr).not.toMatch(/should not happen/);
  });

  test('above the tolerance nothing is left', async () => {
    const folder = temporaryFolder();
    const { code, stderr } = await runCli([...MERGE, '--output', join(folder, 'merged'), '--tolerance', '1e-6']);
    expect(code).toBe(1);
    expect(stderr).toMatch(
      /logits differ by .* the tolerance is 0\.000001 of the largest.*Nothing was written.*--tolerance/,
    );
    expect(readdirSync(folder)).toEqual([]);
  });

  test.each([
    [['--tied-embeddings', 'refuse'], /the policy for that is refuse/],
    [['--tied-embeddings', 'both'], /Allowed choices are untie, tied_both, refuse/],
    [['--max-shard-size', '3 apples'], /Expected a size such as 5GB or 200MB/],
    [['--max-shard-size', '0GB'], /Expected a size such as 5GB or 200MB/],
    [['--tolerance', '-1'], /Expected a number from 0/],
  ])('%j is bad usage', async (options, message) => {
    const output = join(temporaryFolder(), 'merged');
    const { code, stderr } = await runCli([...MERGE, '--output', output, ...options]);
    expect(code).toBe(2);
    expect(stderr).toMatch(message);
    expect(existsSync(output)).toBe(false);
  });

  test('a probe without text, or that is not there', async () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, 'empty.txt'), '');
    const run = (name: string) => runCli([...MERGE, '--output', join(folder, 'merged'), '--probe', join(folder, name)]);
    expect((await run('empty.txt')).stderr).toMatch(/--probe: .*empty\.txt holds no text/);
    expect((await run('nowhere.txt')).stderr).toMatch(/cannot read .*nowhere\.txt: there is no such file/);
    expect(existsSync(join(folder, 'merged'))).toBe(false);
  });

  test('an adapter of another model leaves no output', async () => {
    const output = join(temporaryFolder(), 'merged');
    const adapter = join('test', 'golden', 'tied', 'adapter');
    const { code, stderr } = await runCli([
      'merge',
      ...BACKEND,
      '--model',
      'models/mamba-5m',
      '--adapter',
      adapter,
      '--output',
      output,
    ]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/does not fit models\/mamba-5m/);
    expect(existsSync(output)).toBe(false);
  });
});
