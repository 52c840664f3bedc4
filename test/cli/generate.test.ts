// SPDX-License-Identifier: Apache-2.0
/** mambatune generate: texts of the reference, prompts from everywhere, streaming, sampling, wrong models and adapters. */
import { cpSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { GenerationReport } from '../../src/cli/generate_with.ts';
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts';
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

test('--stop ends a text before it, whole or in pieces', async () => {
  const argv = [...BASE, '--prompt', 'politician, n.', '--stop', ' member of'];
  const { stdout } = await runCli(argv);
  expect(stdout).toBe('politician, n. A person who is a\n');
  const streamed = await runCli([...argv, '--stream']);
  expect(streamed.stdout).toBe(stdout);
  const { value } = await runJson<ReportJson>(argv);
  expect(value.results[0]).toMatchObject({ completion: ' A person who is a', finish_reason: 'stop' });
});

test('--min-new-tokens, --ignore-eos and --eos-token-id move the end', async () => {
  const count = async (...more: string[]) => {
    const { value } = await runJson<ReportJson>([
      ...BASE,
      '--prompt',
      'politician, n.',
      '--max-new-tokens',
      '30',
      ...more,
    ]);
    const [{ completion_tokens = 0, finish_reason = '' } = {}] = value.results;
    return { completion_tokens, finish_reason };
  };
  const plain = await count();
  expect(plain).toMatchObject({ finish_reason: 'eos' });
  expect(await count('--ignore-eos')).toEqual({ completion_tokens: 30, finish_reason: 'length' });
  const later = await count('--min-new-tokens', '20');
  expect(later.completion_tokens).toBeGreaterThanOrEqual(20);
  expect(plain.completion_tokens).toBeLessThan(20);
  const [person = 0] = loadTokenizer('models/mamba-5m').encode(' person');
  expect(await count('--eos-token-id', '3', '--eos-token-id', `${person}`)).toEqual({
    completion_tokens: 2,
    finish_reason: 'eos',
  });
});

test('--no-repeat-ngram-size and --repetition-penalty change what repeats', async () => {
  const argv = [...BASE, '--prompt', 'politician, n.', '--ignore-eos', '--max-new-tokens', '60'];
  const { stdout } = await runCli(argv);
  const outputs = [
    (await runCli([...argv, '--no-repeat-ngram-size', '2'])).stdout,
    (await runCli([...argv, '--repetition-penalty', '1.4'])).stdout,
  ];
  for (const output of outputs) expect(output).not.toBe(stdout);
});

test('--num-return-sequences: that many texts of each prompt', async () => {
  const argv = [...BASE, '--prompt', 'weather, n.', '--prompt', 'love, n.', '--min-p', '0.05', '--seed', '2'];
  const { value } = await runJson<ReportJson>([...argv, '--num-return-sequences', '2', '--max-new-tokens', '12']);
  expect(value.results.map(({ prompt }) => prompt)).toEqual(['weather, n.', 'weather, n.', 'love, n.', 'love, n.']);
  expect(new Set(value.results.map(({ completion }) => completion)).size).toBe(4);
});

test('--weights bfloat16 rounds the weights, which mamba-5m was stored in', async () => {
  const { stdout } = await runCli([...BASE, '--weights', 'bfloat16', '--prompt', 'politician, n.']);
  expect(stdout).toBe(`${BEFORE}\n`);
});

describe('states', () => {
  test('a prompt is read once and continued twice', async () => {
    const state = join(temporaryFolder(), 'state.safetensors');
    const saved = await runCli([...BASE, '--prompt', 'politician, n.', '--max-new-tokens', '0', '--save-state', state]);
    expect(saved).toMatchObject({ code: 0, stdout: 'politician, n.\n' });
    const continued = await runCli([...BASE, '--from-state', state, '--prompt', '']);
    expect(continued.stdout).toBe(`${BEFORE.slice('politician, n.'.length)}\n`);
    const other = await runCli([...BASE, '--from-state', state, '--prompt', ' A person who']);
    expect(other.stdout).toBe(`${BEFORE.slice('politician, n.'.length)}\n`);
  });

  test('the state after a text continues the text', async () => {
    const state = join(temporaryFolder(), 'state.safetensors');
    const argv = [...BASE, '--prompt', 'politician, n.', '--max-new-tokens', '5', '--save-state', state];
    const first = await runCli(argv);
    const second = await runCli([...BASE, '--from-state', state], { stdin: '' });
    expect(first.stdout.trimEnd() + second.stdout).toBe(`${BEFORE}\n`);
  });

  test('a state of another adapter is refused', async () => {
    const state = join(temporaryFolder(), 'state.safetensors');
    await runCli([...BASE, '--prompt', 'a', '--max-new-tokens', '0', '--save-state', state]);
    const { code, stderr } = await runCli([...BASE, '--adapter', ADAPTER, '--from-state', state, '--prompt', 'b']);
    expect(code).toBe(1);
    expect(stderr).toMatch(/state\.safetensors: this state was saved with no adapter/);
  });
});

describe('--chat', () => {
  function chatModel(): string {
    const folder = join(temporaryFolder(), 'model');
    cpSync('models/mamba-5m', folder, { recursive: true });
    writeFileSync(
      join(folder, 'chat_template.jinja'),
      '{% for m in messages %}{{ m.content }}, {% endfor %}{% if add_generation_prompt %}n.{% endif %}',
    );
    return folder;
  }

  test('the template makes the prompt, and the answer alone is printed', async () => {
    const argv = ['generate', ...BACKEND, '--model', chatModel(), '--chat'];
    const { stdout } = await runCli([...argv, '--prompt', 'politician']);
    const plain = await runCli([...BASE, '--prompt', 'politician, n.']);
    expect(`politician, n.${stdout}`).toBe(plain.stdout);
    const { value } = await runJson<ReportJson>([
      ...argv,
      '--system',
      'love',
      '--prompt',
      'politician',
      '--max-new-tokens',
      '3',
    ]);
    const tokens = loadTokenizer('models/mamba-5m').encode('love, politician, n.').length;
    expect(value.results[0]).toMatchObject({ prompt: 'politician', prompt_tokens: tokens });
  });

  test('a tokenizer without a template', async () => {
    const { code, stderr } = await runCli([...BASE, '--chat', '--prompt', 'politician']);
    expect(code).toBe(1);
    expect(stderr).toMatch(/the tokenizer has no chat template/);
  });
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
