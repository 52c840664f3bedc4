// SPDX-License-Identifier: Apache-2.0
/** mambatune eval with an eval section, as a user runs it: table, eval.json, event files, gates, and what is wrong with the input. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { stringify } from 'yaml';
import type { EvalReport } from '../../trainer/index.ts';
import { testedBackends } from '../helpers/backends.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { readEventFile } from '../logging/read_event_file.ts';
import { type JsonError, runCli, runJson } from './run_cli.ts';

const backend = testedBackends()[0];
const ADAPTER = join('test', 'golden', 'seed-recipe', 'adapter_final');
const CHOICES = 'datasets/quickstart/multiple_choice.jsonl';
const TEXTS = 'datasets/quickstart/test.jsonl';

const JOBS = [
  { type: 'perplexity', limit: 12 },
  { type: 'multiple_choice', name: 'which', data: { path: CHOICES }, limit: 6 },
  { type: 'generate', data: { path: TEXTS }, answer_field: 'completion', max_new_tokens: 8, until: ['.'], limit: 6 },
];

interface Changes {
  eval?: Record<string, unknown>;
  top?: Record<string, unknown>;
}

function writeConfig(folder: string, { eval: section = {}, top = {} }: Changes = {}): string {
  const config = {
    model: { path: 'models/mamba-5m' },
    data: { eval: { path: TEXTS }, completion_only_loss: false },
    trainer: { backend },
    eval: { adapters: { tuned: ADAPTER }, jobs: JOBS, bootstrap_samples: 200, ...section },
    ...top,
  };
  const path = join(folder, 'eval.yaml');
  writeFileSync(path, stringify(config));
  return path;
}

async function merge(output: string): Promise<void> {
  const where = ['--model', 'models/mamba-5m', '--adapter', ADAPTER, '--output', output, '--backend', String(backend)];
  expect((await runCli(['merge', ...where])).code).toBe(0);
}

/** Value of a metric of a variant. */
function metricOf(report: EvalReport, job: string, variant: string, metric: string): number {
  const results = report.jobs.find(({ name }) => name === job)?.results;
  const metrics = results?.find((result) => result.variant === variant)?.metrics;
  return metrics?.find(({ name }) => name === metric)?.value ?? Number.NaN;
}

describe('eval with jobs', () => {
  test('a table, eval.json and event files; the adapter beside the base', async () => {
    const output_dir = join(temporaryFolder(), 'out');
    const { code, stdout, stderr } = await runCli(['eval', writeConfig(temporaryFolder(), { eval: { output_dir } })]);
    expect(code, stderr).toBe(0);
    expect(stdout).toMatch(
      /^perplexity: datasets\/quickstart\/test\.jsonl, 12 records, [\d,]+ tokens\n +loss +difference, 95 %/,
    );
    expect(stdout).toMatch(/\nbase +\d\.\d{4} +\d+\ntuned +\d\.\d{4} +-\d\.\d{4} \(-\d\.\d{4} to -\d\.\d{4}\)/);
    expect(stdout).toContain('\nwhich (multiple_choice): datasets/quickstart/multiple_choice.jsonl, 6 records\n');
    expect(stdout).toContain(`\nwritten to ${output_dir}\n`);
    expect(stderr).toContain('which on tuned: 24 of 24');

    const report = JSON.parse(readFileSync(join(output_dir, 'eval.json'), 'utf8')) as EvalReport;
    expect(report).toMatchObject({ backend, batch_size: 8, confidence: 0.95, passed: true });
    expect(report.variants).toEqual([
      { name: 'base', kind: 'base', path: 'models/mamba-5m' },
      { name: 'tuned', kind: 'adapter', path: ADAPTER },
    ]);
    const events = join(output_dir, 'tensorboard');
    expect(readdirSync(events).sort()).toEqual(['base', 'tuned']);
    const [file] = readdirSync(join(events, 'tuned'));
    const scalars = JSON.stringify(readEventFile(join(events, 'tuned', file as string)));
    for (const tag of ['perplexity/loss', 'which/acc_norm', 'generate/chrf']) expect(scalars).toContain(tag);
  });

  test('no figure depends on batch size and window, and a seed gives the same intervals', async () => {
    const folder = temporaryFolder();
    const [{ value: one }, { value: other }] = await Promise.all([
      runJson<EvalReport>(['eval', writeConfig(folder, { eval: { batch_size: 1, window: 1024 } })]),
      runJson<EvalReport>(['eval', writeConfig(temporaryFolder(), { eval: { batch_size: 5, window: 16 } })]),
    ]);
    for (const [job, metrics] of Object.entries({
      perplexity: ['loss', 'perplexity'],
      which: ['acc', 'acc_norm'],
      generate: ['exact_match', 'rougeL', 'chrf'],
    })) {
      for (const metric of metrics) {
        for (const variant of ['base', 'tuned']) {
          const wanted = metricOf(one, job, variant, metric);
          expect(metricOf(other, job, variant, metric) / (wanted || 1), `${metric} of ${variant}`).toBeCloseTo(
            wanted === 0 ? 0 : 1,
            6,
          );
        }
      }
    }
    expect(other.jobs[1]?.results[1]?.metrics).toEqual(one.jobs[1]?.results[1]?.metrics);
    expect(one.jobs[0]?.units).toBe(12);
    expect(other.jobs[0]?.units).toBeGreaterThan(12);
  });

  test('without jobs: what the plain evaluation gives, for the base and each adapter', async () => {
    const folder = temporaryFolder();
    const data = { eval: { path: join(folder, 'texts.jsonl') }, max_length: 20 };
    writeFileSync(data.eval.path, readFileSync(TEXTS, 'utf8').split('\n').slice(0, 6).join('\n'));
    const { value } = await runJson<EvalReport>(['eval', writeConfig(folder, { eval: { jobs: null }, top: { data } })]);
    const plain = writeConfig(folder, { top: { data, eval: null } });
    const base = await runJson<{ loss: number; tokens: number }>(['eval', plain]);
    const tuned = await runJson<{ loss: number }>(['eval', plain, '--adapter', ADAPTER]);
    expect(value.jobs).toMatchObject([{ name: 'perplexity', records: 6, tokens: base.value.tokens }]);
    expect(metricOf(value, 'perplexity', 'base', 'loss')).toBeCloseTo(base.value.loss, 5);
    expect(metricOf(value, 'perplexity', 'tuned', 'loss')).toBeCloseTo(tuned.value.loss, 5);
    expect(metricOf(value, 'perplexity', 'tuned', 'loss')).not.toBeCloseTo(base.value.loss, 2);
  });

  test('two adapters and a merged model, each as if it were alone', async () => {
    const folder = temporaryFolder();
    const merged = join(folder, 'merged');
    await merge(merged);
    const config = writeConfig(folder, {
      eval: { jobs: JOBS.slice(0, 1), adapters: { first: ADAPTER, second: ADAPTER }, models: { merged } },
    });
    const { code, value } = await runJson<EvalReport>(['eval', config]);
    expect(code).toBe(0);
    const losses = ['base', 'first', 'second', 'merged'].map((name) => metricOf(value, 'perplexity', name, 'loss'));
    expect(losses[2]).toBe(losses[1]);
    expect(losses[3]).toBeCloseTo(losses[1] as number, 4);
    expect(losses[1]).toBeLessThan((losses[0] as number) - 0.1);
  });

  test('a gate that fails ends with exit code 1 after everything is written', async () => {
    const folder = temporaryFolder();
    const gate = (metric: string, max_regression: number) => ({ ...JOBS[0], gate: { metric, max_regression } });
    // The base model, held against an adapter as if that were the base: it is worse.
    const merged = join(folder, 'merged');
    await merge(merged);
    const section = { adapters: {}, models: { worse: 'models/mamba-5m' }, output_dir: join(folder, 'out') };
    const top = { model: { path: merged } };
    const failing = writeConfig(folder, { eval: { ...section, jobs: [gate('loss', 0.1)] }, top });
    const failed = await runCli(['eval', failing]);
    expect(failed.code).toBe(1);
    expect(failed.stdout).toMatch(
      /gate FAILED: loss of worse is \d\.\d{4} worse than the base model's, 0\.1 allowed\n/,
    );
    expect(failed.stderr).toMatch(
      /error: a gate failed: a model is worse than the base by more than its max_regression/,
    );
    const report = JSON.parse(readFileSync(join(folder, 'out', 'eval.json'), 'utf8')) as EvalReport;
    expect(report).toMatchObject({
      passed: false,
      jobs: [{ gate: { passed: false, regressions: [{ passed: false }] } }],
    });
    const json = await runJson<EvalReport>(['eval', failing]);
    expect(json).toMatchObject({ code: 1, value: { passed: false } });

    const passing = writeConfig(folder, { eval: { ...section, jobs: [gate('loss', 10)] }, top });
    const passed = await runCli(['eval', passing]);
    expect(passed.code).toBe(0);
    expect(passed.stdout).toContain('gate passed: loss of worse is');
  });
});

describe('errors', () => {
  const expectFailure = async (argv: string[], code: number, message: RegExp) => {
    const { code: found, stdout, stderr } = await runCli(argv);
    expect({ found, stdout }).toEqual({ found: code, stdout: '' });
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/^ +at |should not happen/m);
    const { value } = await runJson<JsonError>(argv);
    expect(value.error).toMatchObject({ kind: 'user', exit_code: code });
  };

  test('an adapter that is not there', () =>
    expectFailure(
      ['eval', writeConfig(temporaryFolder(), { eval: { adapters: { tuned: 'no/such' } } })],
      2,
      /eval\.yaml:\d+:\d+: eval\.adapters\.tuned: there is no "no\/such\/adapter_config\.json"/,
    ));

  test('an adapter of another model, and nothing is written', async () => {
    const output_dir = join(temporaryFolder(), 'out');
    const adapters = { other: join('test', 'golden', 'tied', 'adapter') };
    const config = writeConfig(temporaryFolder(), { eval: { adapters, output_dir, jobs: JOBS.slice(1, 2) } });
    await expectFailure(['eval', config], 1, /does not fit models\/mamba-5m/);
    expect(existsSync(join(output_dir, 'eval.json'))).toBe(false);
  });

  test('a model with another vocabulary', () =>
    expectFailure(
      [
        'eval',
        writeConfig(temporaryFolder(), {
          eval: { models: { other: 'test/golden/tied/model' }, adapters: {}, jobs: JOBS.slice(1, 2) },
        }),
      ],
      1,
      /test\/golden\/tied\/model: its vocabulary has \d+ ids, the base model's 4096/,
    ));

  test('an output folder that cannot be written, before anything is computed', async () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, 'file'), '');
    const config = writeConfig(folder, { eval: { output_dir: join(folder, 'file', 'out') } });
    const { code, stderr } = await runCli(['eval', config]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/cannot write .*file\/out: a part of this path is a file/);
    expect(stderr).not.toContain(' on base');
  });

  test('items with a fault: file and line', async () => {
    const folder = temporaryFolder();
    mkdirSync(join(folder, 'items'));
    const items = join(folder, 'items', 'choices.jsonl');
    writeFileSync(items, '{"context": "a", "choices": ["b", "c"], "answer": 2}\n');
    const jobs = [{ type: 'multiple_choice', data: { path: items } }];
    await expectFailure(
      ['eval', writeConfig(folder, { eval: { jobs } })],
      1,
      /choices\.jsonl:1: answer is 2; expected the position of one of the 2 choices, from 0 to 1/,
    );
  });

  test('--adapter beside an eval section', () =>
    expectFailure(
      ['eval', writeConfig(temporaryFolder()), '--adapter', ADAPTER],
      2,
      /--adapter: .*has an eval section, which names its adapters; use --set eval\.adapters\.NAME=/,
    ));
});
