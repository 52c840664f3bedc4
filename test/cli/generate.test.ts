// SPDX-License-Identifier: Apache-2.0
/** mambatune generate: texts of the reference, prompts from everywhere, streaming, sampling, wrong models and adapters. */
import { cpSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { GenerationReport } from '../../src/cli/generate_with.ts';
import { testedBackends } from '../helpers/backends.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { type JsonError, runCli, runJson } from './run_cli.ts';

/** generate_with.ts's report as --json spells it. */
type ReportJson = Omit<GenerationReport, 'tokensPerSecond' | 'results'> & {
  tokens_per_second: number;
  results: {
    prompt: string;
    completion: string;
    prompt_tokens: number;
    completion_tokens: number;
    finish_reason: string;
  }[];
};

const BACKEND = ['--backend', testedBackends()[0] as string];
const BASE = ['generate', ...BACKEND, '--model', 'models/mamba-5m'];
const ADAPTER = join('test', 'golden', 'seed-recipe', 'adapter_final');
/** What the reference implementation writes, greedily. */
const BEFORE = 'politician, n. A person who is a member of the political party.';
const AFTER = [
  'politician, n. One who advocates the opponent of the dignitary of the people.',
  'love, n. A woman who has a lover.',
  'computer, n. A person of the most important character of the work.',
  'lawyer, n. One who holds the law of the law.',
];
const AFTER_PROMPTS = AFTER.flatMap((text) => ['--prompt', `${text.split(' n. ')[0]} n.`]);

describe('greedy texts are the reference’s', () => {
  test('base model', async () => {
    const { code, stdout, stderr } = await runCli([...BASE, '--prompt', 'politician, n.']);
    expect({ code, stdout }).toEqual({ code: 0, stdout: `${BEFORE}\n` });
    expect(stderr).toMatch(/^backend: \w+\n\d+ tokens in .* tokens\/s\)\n$/);
  });

  test('with an adapter, several prompts as one batch', async () => {
    const { code, stdout } = await runCli([...BASE, '--adapter', ADAPTER, ...AFTER_PROMPTS]);
    expect({ code, stdout }).toEqual({ code: 0, stdout: `${AFTER.join('\n\n')}\n` });
  });

  test('--json', async () => {
    const { value, stderr } = await runJson<ReportJson>([
      ...BASE,
      '--adapter',
      ADAPTER,
      ...AFTER_PROMPTS,
      '--max-new-tokens',
      '12',
    ]);
    expect(value).toMatchObject({ model: 'models/mamba-5m', adapter: ADAPTER, backend: BACKEND[1], seed: null });
    expect(value.tokens_per_second).toBeGreaterThan(0);
    for (const [index, result] of value.results.entries()) {
      const whole = AFTER[index] ?? '';
      const text = result.prompt + result.completion;
      expect(whole.startsWith(text)).toBe(true);
      expect(result.finish_reason).toBe(text === whole ? 'eos' : 'length');
      expect(result.completion_tokens).toBeLessThanOrEqual(12);
    }
    expect(value.results.map((result) => result.finish_reason)).toContain('eos');
    expect(value.results.map((result) => result.finish_reason)).toContain('length');
    expect(stderr).toContain('tokens/s');
  });
});

describe('prompts', () => {
  test('stdin is one prompt, without its last line break', async () => {
    const { stdout } = await runCli(BASE, { stdin: 'politician, n.\n' });
    expect(stdout).toBe(`${BEFORE}\n`);
  });

  test('text that is not ASCII arrives whole', async () => {
    const { stdout } = await runCli([...BASE, '--max-new-tokens', '1'], { stdin: 'naïve — 東京 🙂' });
    expect(stdout.startsWith('naïve — 東京 🙂')).toBe(true);
    expect(stdout).not.toContain('\ufffd'.repeat(2));
  });

  test('an empty prompt starts a text', async () => {
    const { code, value } = await runJson<ReportJson>([...BASE, '--prompt', '', '--max-new-tokens', '8']);
    expect(code).toBe(0);
    expect(value.results[0]).toMatchObject({ prompt: '', prompt_tokens: 1 });
    expect(value.results[0]?.completion).not.toBe('');
  });
});

test('--stream gives the same text, in pieces, one prompt after the other', async () => {
  const argv = [...BASE, '--adapter', ADAPTER, ...AFTER_PROMPTS];
  const { stdout, writes } = await runCli([...argv, '--stream']);
  expect(stdout).toBe(`${AFTER.join('\n\n')}\n`);
  expect(writes.length).toBeGreaterThan(10);
  expect(writes[0]).toBe('politician, n.');
});

test('sampling: --seed repeats a text, the seed that was taken is told', async () => {
  const argv = [
    ...BASE,
    '--prompt',
    'weather, n.',
    '--temperature',
    '1.2',
    '--top-p',
    '0.95',
    '--max-new-tokens',
    '20',
  ];
  const first = await runCli(argv);
  const seed = /seed (\d+)$/m.exec(first.stderr)?.[1] ?? '';
  expect((await runCli([...argv, '--seed', seed])).stdout).toBe(first.stdout);
  expect((await runCli([...argv, '--seed', `${Number(seed) + 1}`])).stdout).not.toBe(first.stdout);
  expect((await runCli([...BASE, '--prompt', 'weather, n.', '--max-new-tokens', '20'])).stderr).not.toContain('seed');
});

describe('errors', () => {
  const expectFailure = async (argv: string[], message: RegExp, code = 1) => {
    const plain = await runCli(argv);
    expect(plain).toMatchObject({ code, stdout: '' });
    expect(plain.stderr).toMatch(message);
    expect(plain.stderr).not.toMatch(/^ +at |should not happen/m);
    const { value } = await runJson<JsonError>(argv);
    expect(value).toEqual({
      error: { kind: 'user', message: expect.stringMatching(message) as string, exit_code: code },
    });
  };
  const generate = ['generate', ...BACKEND, '--prompt', 'a'];

  test('a model that is not there', () =>
    expectFailure([...generate, '--model', './no/such'], /no\/such: there is no such folder, and it is no Hub name/));

  test('a folder that is no model', () => expectFailure([...generate, '--model', temporaryFolder()], /config\.json/));

  test('an adapter that is not there', () =>
    expectFailure(
      [...generate, '--model', 'models/mamba-5m', '--adapter', 'no/such'],
      /no\/such: no such folder; expected an adapter folder/,
    ));

  test('an adapter of another model: every mismatch', async () => {
    const other = join('test', 'golden', 'tied', 'adapter');
    const message =
      /does not fit models\/mamba-5m \(\d+ mismatches\).*layers\.0\.mixer\.in_proj\.lora_A\.weight: has \[/s;
    await expectFailure([...generate, '--model', 'models/mamba-5m', '--adapter', other], message);
  });

  test('an adapter whose base model is not where it says', async () => {
    const folder = temporaryFolder();
    cpSync(ADAPTER, folder, { recursive: true });
    writeFileSync(
      join(folder, 'adapter_config.json'),
      JSON.stringify({
        peft_type: 'LORA',
        r: 8,
        lora_alpha: 8,
        target_modules: ['in_proj'],
        base_model_name_or_path: './gone',
      }),
    );
    await expectFailure(
      [...generate, '--adapter', folder],
      /names \.\/gone as its base model: .*no such folder.*--model/,
    );
  });
});
