// SPDX-License-Identifier: Apache-2.0
/** mambatune merge: the merged folder computes and writes what base and adapter do; places that cannot be written. */
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { testedBackends } from '../helpers/backends.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { type JsonError, runCli, runJson } from './run_cli.ts';

interface MergeJson {
  output: string;
  dtype: string;
  merged: string[];
  untied: boolean;
  max_logit_difference: number;
}

const BACKEND = ['--backend', testedBackends()[0] as string];
const ADAPTER = join('test', 'golden', 'seed-recipe', 'adapter_final');
const MERGE = ['merge', ...BACKEND, '--model', 'models/mamba-5m', '--adapter', ADAPTER];

test('the merged model writes what base and adapter write', async () => {
  const output = join(temporaryFolder(), 'merged');
  const { code, stdout } = await runCli([...MERGE, '--output', output]);
  expect(code).toBe(0);
  expect(stdout).toMatch(
    /^merged 25 modules of models\/mamba-5m .*\(float32\)\n.*lm_head\.weight.*\n.*largest difference .*of logits up to/,
  );
  expect(readdirSync(output).sort()).toEqual([
    ...['config.json', 'generation_config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'],
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

test('--dtype bfloat16 halves the file; --json has the receipt', async () => {
  const folder = temporaryFolder();
  const whole = await runJson<MergeJson>([...MERGE, '--output', join(folder, 'f32')]);
  const half = await runJson<MergeJson>([...MERGE, '--output', join(folder, 'bf16'), '--dtype', 'bfloat16']);
  expect(whole.value).toMatchObject({ dtype: 'float32', untied: true });
  expect(half.value).toMatchObject({ dtype: 'bfloat16', untied: true });
  expect(half.value.merged).toHaveLength(25);
  expect(whole.value.max_logit_difference).toBeLessThan(1e-3);
  expect(half.value.max_logit_difference).toBeGreaterThan(whole.value.max_logit_difference);
  const size = (name: string) => statSync(join(folder, name, 'model.safetensors')).size;
  expect(size('bf16') / size('f32')).toBeCloseTo(0.5, 1);
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
