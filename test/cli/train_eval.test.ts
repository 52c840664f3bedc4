// SPDX-License-Identifier: Apache-2.0
/** mambatune train and eval as a user runs them: what they print and write, the reference's losses, wrong configs. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { stringify } from 'yaml';
import { testedBackends } from '../helpers/backends.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { type JsonError, runCli, runJson } from './run_cli.ts';

interface EvalJson {
  model: string;
  adapter: string | null;
  loss: number;
  perplexity: number;
  tokens: number;
  examples: number;
}

interface TrainJson {
  adapter_folder: string;
  steps: number;
  losses: number[];
  eval_losses: { step: number; loss: number }[];
  trainable: number;
}

const backend = testedBackends()[0];
const ADAPTER = join('test', 'golden', 'seed-recipe', 'adapter_final');

/** A config that trains two steps on eight records, and evaluates on four. */
function writeConfig(folder: string, changes: Record<string, unknown> = {}): string {
  const records = readFileSync('datasets/quickstart/test.jsonl', 'utf8')
    .split('\n')
    .filter((line) => line.length < 200);
  writeFileSync(join(folder, 'train.jsonl'), records.slice(0, 8).join('\n'));
  writeFileSync(join(folder, 'test.jsonl'), records.slice(8, 12).join('\n'));
  const config = {
    model: { path: 'models/mamba-5m' },
    data: { train: { path: join(folder, 'train.jsonl') }, eval: { path: join(folder, 'test.jsonl') } },
    trainer: {
      output_dir: join(folder, 'run'),
      backend,
      max_steps: 2,
      per_device_train_batch_size: 4,
      learning_rate: 2e-3,
      lr_scheduler_type: 'constant',
      eval_strategy: 'epoch',
    },
    ...changes,
  };
  const path = join(folder, 'config.yaml');
  writeFileSync(path, stringify(config));
  return path;
}

describe('train', () => {
  test('prints what it did, and its adapter is what eval and generate take', async () => {
    const folder = temporaryFolder();
    const config = writeConfig(folder);
    const trained = await runCli(['train', config]);
    const adapter = join(folder, 'run', 'adapter');
    expect(trained.code, trained.stderr).toBe(0);
    expect(trained.stdout).toMatch(
      /^trained 2 steps in .*: loss \d+\.\d{4} → \d+\.\d{4}, on data\.eval \d+\.\d{4}\nadapter: /,
    );
    expect(trained.stdout).toContain(`mambatune generate --adapter ${adapter} --prompt`);
    expect(trained.stderr).toContain('trainable parameters: 201,728 of');

    const before = await runJson<EvalJson>(['eval', config]);
    const after = await runJson<EvalJson>(['eval', config, '--adapter', adapter]);
    expect(before.value).toMatchObject({ model: 'models/mamba-5m', adapter: null, examples: 4 });
    expect(after.value).toMatchObject({ adapter, examples: 4, tokens: before.value.tokens });
    expect(after.value.loss).not.toBe(before.value.loss);
    expect(trained.stdout).toContain(`on data.eval ${after.value.loss.toFixed(4)}`);
    expect(after.value.perplexity).toBeCloseTo(Math.exp(after.value.loss), 8);
    expect((await runCli(['generate', '--adapter', adapter, '--prompt', 'a', '--max-new-tokens', '2'])).code).toBe(0);
  });

  test('--json, with --set', async () => {
    const config = writeConfig(temporaryFolder());
    const { code, value } = await runJson<TrainJson>([
      'train',
      config,
      '--set',
      'trainer.max_steps=1',
      '--set',
      'adapter.r=4',
    ]);
    expect(code).toBe(0);
    expect(value).toMatchObject({
      steps: 1,
      trainable: 201_728 / 2,
      losses: [expect.any(Number)],
      eval_losses: [{ step: 1 }],
    });
    expect(existsSync(join(value.adapter_folder, 'adapter_model.safetensors'))).toBe(true);
  });
});

describe('train --resume', () => {
  test('takes a run folder alone, or a config', async () => {
    const folder = temporaryFolder();
    const config = writeConfig(folder);
    const run = join(folder, 'run');
    const first = await runJson<TrainJson>(['train', config, '--set', 'trainer.max_steps=1']);
    const further = ['--set', 'trainer.max_steps=3'];
    const second = await runJson<TrainJson>(['train', '--resume', run, ...further]);
    expect(second).toMatchObject({ code: 0, value: { steps: 3 } });
    expect(second.value.losses[0]).toBe(first.value.losses[0]);
    expect(second.stderr).toContain(`resuming from ${join(run, 'checkpoint-1')}: step 1 of 1 is done`);

    const third = await runJson<TrainJson>(['train', config, '--resume', join(run, 'checkpoint-1'), ...further]);
    expect(third.value.losses).toEqual(second.value.losses);
    const fourth = await runJson<TrainJson>(['train', config, '--resume', ...further]);
    expect(fourth.stderr).toContain('checkpoint-3: step 3 of 3 is done');
    expect(fourth.value.losses).toEqual(second.value.losses);
  });

  test('says what is wrong with the folder', async () => {
    const folder = temporaryFolder();
    const nothing = await runCli(['train', '--resume', join(folder, 'nothing')]);
    expect(nothing).toMatchObject({ code: 2, stdout: '' });
    expect(nothing.stderr).toMatch(/cannot read .*nothing\/config\.yaml: there is no such file/);
    const elsewhere = await runCli(['train', writeConfig(folder), '--resume', folder]);
    expect(elsewhere.code).toBe(2);
    expect(elsewhere.stderr).toMatch(/is neither trainer\.output_dir, which is .*run, nor a checkpoint in it/);
  });
});

describe('eval', () => {
  test('prints loss and perplexity', async () => {
    const { code, stdout } = await runCli(['eval', writeConfig(temporaryFolder())]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^loss \d+\.\d{4} {2}perplexity [\d.]+ {2}\(\d+ tokens of 4 records, .*s\)\n$/);
  });

  test('the losses of the reference, before and after its training', async () => {
    const reference = JSON.parse(readFileSync('test/golden/seed-recipe/reference.json', 'utf8')) as Record<
      string,
      number
    >;
    const argv = ['eval', 'configs/quickstart.yaml', '--set', `trainer.backend=${backend}`];
    const before = await runJson<EvalJson>(argv);
    const after = await runJson<EvalJson>([...argv, '--adapter', ADAPTER]);
    expect(before.value.loss).toBeCloseTo(reference.eval_loss_before as number, 4);
    expect(after.value.loss).toBeCloseTo(reference.eval_loss_epoch3 as number, 4);
  }, 300_000);
});

test('train --dry-run tells what a run would be, as a table and as JSON, and leaves no trace', async () => {
  const folder = temporaryFolder();
  const path = writeConfig(folder);
  const output = ['--set', `trainer.output_dir=${join(folder, 'run')}`];
  const { code, stdout } = await runCli(['train', path, '--dry-run', ...output]);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^steps +2 \(\d an epoch\)$/m);
  expect(stdout).toMatch(/^padding +\d+\.\d % of the batches$/m);
  const { value } = await runJson<{ steps: number; padding: number }>(['train', path, '--dry-run', ...output]);
  expect(value.steps).toBe(2);
  expect(value.padding).toBeLessThan(1);
  expect(existsSync(join(folder, 'run'))).toBe(false);
});

describe('errors', () => {
  const expectFailure = async (argv: string[], code: number, message: RegExp) => {
    const { code: found, stdout, stderr } = await runCli(argv);
    expect({ found, stdout }).toEqual({ found: code, stdout: '' });
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/^ +at |should not happen/m);
    const { value } = await runJson<JsonError>(argv);
    expect(value.error).toMatchObject({
      kind: 'user',
      exit_code: code,
      message: expect.stringMatching(message) as string,
    });
  };

  test.each(['train', 'eval'])('%s without its config file', (command) =>
    expectFailure([command, 'no/such.yaml'], 2, /cannot read no\/such\.yaml: there is no such file/),
  );

  test('an unknown key: file, line, column, nearest name', () => {
    const path = writeConfig(temporaryFolder(), { trainr: {} });
    return expectFailure(['train', path], 2, /config\.yaml:\d+:\d+: .*trainr.*trainer/s);
  });

  test.each([
    ['trainer.max_steps', /--set trainer\.max_steps: expected key=value/],
    ['trainer.max_step=3', /--set trainer\.max_step: .*max_steps/],
    ['trainer.max_steps=many', /--set trainer\.max_steps: .*many/],
  ])('--set %s', (override, message) =>
    expectFailure(['train', writeConfig(temporaryFolder()), '--set', override], 2, message),
  );

  test('a model that is not there', () => {
    const path = writeConfig(temporaryFolder(), { model: { path: './no/such' } });
    return expectFailure(['train', path], 2, /config\.yaml:\d+:\d+: model\.path: there is no ".\/no\/such"/);
  });

  test('a run folder that cannot be written', async () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, 'file'), '');
    const path = writeConfig(folder);
    const { code, stderr } = await runCli([
      'train',
      path,
      '--set',
      `trainer.output_dir=${join(folder, 'file', 'run')}`,
    ]);
    expect(code).toBeGreaterThan(0);
    expect(stderr).toMatch(/file\/run/);
    expect(stderr).not.toMatch(/should not happen/);
  });

  test('an adapter of another model', () => {
    const path = writeConfig(temporaryFolder());
    const adapter = join('test', 'golden', 'tied', 'adapter');
    return expectFailure(['eval', path, '--adapter', adapter], 1, /does not fit models\/mamba-5m/);
  });
});
