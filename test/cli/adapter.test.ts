// SPDX-License-Identifier: Apache-2.0
/** mambatune adapter inspect, convert, combine. */
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { COMBINE_FOLDER } from '../golden/combine.ts';
import { GOLDEN_FOLDER } from '../golden/golden.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { type JsonError, runCli, runJson } from './run_cli.ts';

const MODEL = join(GOLDEN_FOLDER, 'tied', 'model');
const [B, C] = [join(COMBINE_FOLDER, 'b'), join(COMBINE_FOLDER, 'c')];

test('inspect prints a table, and as JSON all of it', async () => {
  const { code, stdout } = await runCli(['adapter', 'inspect', C, '--model', MODEL]);
  expect(code).toBe(0);
  expect(stdout).toMatch(
    /^adapter {6}.*combine\/c\nbase model {3}tied\nits weights {2}[0-9a-f]{16}, those of the given model\n/,
  );
  expect(stdout).toMatch(/\nmodule +rank +\|A\| +\|B\| +\|update\| +of \|W\|\nbackbone\.embeddings +3 .* %\n/);
  expect(stdout).toMatch(/peft, out_proj \(2\): peft refuses it on Mamba/);
  const { value } = await runJson<Record<string, unknown>>(['adapter', 'inspect', C]);
  expect(value).toMatchObject({ base_matches: null, lora_alpha: 5, parameters: expect.any(Number) });
});

test('convert there and back', async () => {
  const folder = temporaryFolder();
  const there = await runCli(['adapter', 'convert', C, '--output', join(folder, 'mlx'), '--embeddings', 'drop']);
  expect(there.stdout).toMatch(
    /\(peft\) -> .* \(mlx\): 4 modules, rank 3, scale 1\.67\nleft out: backbone\.embeddings\n$/,
  );
  const back = await runJson(['adapter', 'convert', join(folder, 'mlx'), '--output', join(folder, 'peft')]);
  expect(back.value).toMatchObject({ from: 'mlx', to: 'peft', r: 3, dropped: [] });
  expect(readdirSync(join(folder, 'peft')).sort()).toEqual([
    'README.md',
    'adapter_config.json',
    'adapter_model.safetensors',
  ]);
});

test('combine, and generate with the result', async () => {
  const output = join(temporaryFolder(), 'both');
  const options = ['--weights', '-0.5,1', '--type', 'cat', '--output', output];
  const { code, stdout } = await runCli(['adapter', 'combine', B, C, ...options]);
  expect(code).toBe(0);
  expect(stdout).toMatch(/both = -0\.5 .*\/b \+ 1 .*\/c \(cat\): 9 modules, rank 7\n$/);
  expect((await runJson(['adapter', 'inspect', output, '--model', MODEL])).value).toMatchObject({
    base_matches: true,
    r: 7,
  });
});

test('every option of combine reaches it', async () => {
  const output = join(temporaryFolder(), 'both');
  const type = ['--type', 'dare_ties', '--density', '0.5', '--majority-sign-method', 'frequency', '--seed', '7'];
  const argv = ['adapter', 'combine', B, B, '--weights', '1,1', ...type, '--base', 'another', '--output', output];
  expect((await runJson(argv)).value).toMatchObject({ combination_type: 'dare_ties', r: 4 });
  expect((await runJson(['adapter', 'inspect', output])).value).toMatchObject({ base_model: 'another' });
});

describe('errors', () => {
  test.each<[string[], number, RegExp]>([
    [['adapter'], 2, /found no command; expected one of those above/],
    [['adapter', 'squash'], 2, /unknown command 'squash'/],
    [['adapter', 'inspect'], 2, /missing required argument 'folder'.*\n.*mambatune adapter inspect --help/],
    [['adapter', 'inspect', 'nowhere'], 1, /nowhere: no such folder; expected an adapter folder/],
    [
      ['adapter', 'combine', B, '--weights', '1,x', '--output', 'o'],
      2,
      /Expected numbers with commas between, such as 1,-0\.5/,
    ],
    [['adapter', 'combine', B, B, '--weights', '1', '--output', 'o'], 2, /found 1 weights for 2 adapters/],
    [['adapter', 'combine', B, B, '--weights', '1,1', '--type', 'ties', '--output', 'o'], 2, /ties needs a density/],
    [['adapter', 'convert', C, '--output', 'o'], 2, /it adapts the embeddings/],
  ])('%j', async (argv, code, message) => {
    const run = await runCli(argv);
    expect(run.code).toBe(code);
    expect(run.stderr).toMatch(message);
    expect(existsSync('o')).toBe(false);
  });

  test('with --json the error is the JSON value', async () => {
    const { code, value } = await runJson<JsonError>(['adapter', 'inspect', 'nowhere']);
    expect(code).toBe(1);
    expect(value.error.message).toMatch(/no such folder/);
  });

  test('a place that cannot be written', async () => {
    const file = join(temporaryFolder(), 'file');
    writeFileSync(file, '');
    const { code, stderr } = await runCli(['adapter', 'combine', B, '--weights', '1', '--output', join(file, 'out')]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/cannot write .*file\/out: /);
    expect(stderr).not.toMatch(/should not happen/);
  });
});
