// SPDX-License-Identifier: Apache-2.0
/** Help, versions, and every kind of wrong usage. */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { type JsonError, runCli, runJson } from './run_cli.ts';

const COMMANDS = ['quickstart', 'train', 'eval', 'generate', 'merge', 'data preview', 'report', 'init', 'doctor'];
const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };

describe('help', () => {
  test('--help lists every command', async () => {
    const { code, stdout, stderr } = await runCli(['--help']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    for (const name of COMMANDS) expect(stdout).toMatch(new RegExp(`^  ${name.split(' ')[0]} `, 'm'));
  });

  test.each(COMMANDS)('%s --help has an example', async (name) => {
    const { code, stdout, stderr } = await runCli([...name.split(' '), '--help']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toMatch(new RegExp(`^Usage: mambatune ${name} `));
    expect(stdout).toMatch(new RegExp(`Examples?:[\\s\\S]*\\$ .*mambatune ${name}`));
    expect(stdout).toContain('--json');
  });

  test('--json wraps it', async () => {
    expect(await runJson(['--version'])).toEqual({ code: 0, value: { version }, stderr: '' });
    const { value } = await runJson<{ help: string }>(['merge', '--help']);
    expect(value.help).toContain('--output');
  });
});

test('--version prints the version alone', async () => {
  expect(await runCli(['--version'])).toMatchObject({ code: 0, stdout: `${version}\n`, stderr: '' });
});

describe('wrong usage exits with 2 and names what is wrong', () => {
  test.each([
    [[], /found no command; expected one of those above/],
    [['generat'], /unknown command 'generat' \(Did you mean generate\?\)/],
    [['generate', '--max-new-token', '3'], /unknown option '--max-new-token' \(Did you mean --max-new-tokens\?\)/],
    [['train'], /expected a config file, or --resume DIR with the folder of a run/],
    [['train', '--resume'], /expected a config file, or --resume DIR with the folder of a run/],
    [['train', '--dry-run'], /train --dry-run: expected a config file, and no --resume/],
    [['train', 'a.yaml', '--time-steps', '2'], /--time-steps goes with --dry-run/],
    [['train', 'a.yaml', 'b.yaml'], /too many arguments/],
    [['merge', '--output', 'x'], /required option '--adapter <folder>' not specified/],
    [
      ['merge', '--adapter', 'a', '--output', 'b', '--dtype', 'fp8'],
      /'fp8' is invalid. Allowed choices are float32, bfloat16, float16/,
    ],
    [['generate', '--backend', 'gpu'], /'gpu' is invalid. Allowed choices are auto, cuda, native/],
    [['generate', '--max-new-tokens', '-1'], /'-1' is invalid. Expected a whole number from 0/],
    [['generate', '--max-new-tokens', '1e3'], /'1e3' is invalid. Expected a whole number from 0/],
    [
      ['generate', '--max-new-tokens', '0', '--prompt', 'a'],
      /reads the prompt alone, which nothing shows without --save-state/,
    ],
    [['generate', '--min-p', '2'], /'2' is invalid. Expected a number from 0 to 1/],
    [['generate', '--repetition-penalty', '0'], /'0' is invalid. Expected a number above 0/],
    [['generate', '--no-repeat-ngram-size', '0'], /'0' is invalid. Expected a whole number from 1/],
    [
      ['generate', '--eos-token-id', '3', '--ignore-eos'],
      /'--eos-token-id <id>' cannot be used with option '--ignore-eos'/,
    ],
    [
      ['generate', '--num-return-sequences', '2', '--prompt', 'a'],
      /--num-return-sequences changes nothing without sampling/,
    ],
    [['generate', '--system', 's', '--prompt', 'a'], /--system speaks through a chat template; add --chat/],
    [
      ['generate', '--chat', '--from-state', 's', '--prompt', 'a'],
      /--chat begins a conversation and --from-state continues/,
    ],
    [['generate', '--save-state', 's', '--prompt', 'a', '--prompt', 'b'], /state of one text; found 2 prompts/],
    [
      ['generate', '--save-state', 's', '--top-k', '2', '--num-return-sequences', '2', '--prompt', 'a'],
      /state of one text; found --num-return-sequences 2/,
    ],
    [['generate', '--weights', 'fp8'], /'fp8' is invalid. Allowed choices are float32, bfloat16/],
    [['generate', '--greedy', '--min-p', '0.1'], /'--greedy' cannot be used with option '--min-p <p>'/],
    [['generate', '--temperature', '0'], /'0' is invalid. Expected a number above 0/],
    [['generate', '--temperature', 'warm'], /'warm' is invalid. Expected a number above 0/],
    [['generate', '--top-p', '1.1'], /'1.1' is invalid. Expected a number from 0 to 1/],
    [['generate', '--top-k', '-1'], /'-1' is invalid. Expected a whole number from 0/],
    [['generate', '--greedy', '--top-k', '3'], /'--greedy' cannot be used with option '--top-k <k>'/],
    [['generate', '--json', '--stream'], /--stream prints as it goes and --json at the end: found both/],
    [
      ['generate', '--model', 'm', '--prompt', 'a', '--seed', '1'],
      /--seed changes nothing without sampling; add --temperature/,
    ],
    [['generate', '--model', 'm'], /found no prompt; give --prompt "text", or pipe a text in/],
    [['generate', '--prompt', 'a'], /found neither --model nor --adapter/],
  ] as [string[], RegExp][])('mambatune %j', async (argv, message) => {
    if (!argv.includes('--json')) {
      const { code, stdout, stderr } = await runCli(argv);
      expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
      expect(stderr).toMatch(message);
      expect(stderr).not.toMatch(/^ +at /m);
    }
    const json = await runJson<JsonError>(argv);
    expect(json.code).toBe(2);
    expect(json.value.error).toMatchObject({ exit_code: 2, kind: expect.stringMatching(/usage|user/) as string });
    expect(json.value.error.message).toMatch(message);
  });

  test('it points to the help of the command', async () => {
    expect((await runCli(['generate', '--prommpt', 'x'])).stderr).toMatch(
      /`mambatune generate --help` says what it takes/,
    );
  });
});
