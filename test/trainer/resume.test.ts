// SPDX-License-Identifier: Apache-2.0
/** Resumed runs: the same as if they had never been stopped; which checkpoint they go on from; what they refuse. */
import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { selectBackend } from '../../src/backends/select.ts';
import type { RunConfig } from '../../src/config/schema.ts';
import { ConfigError, UserError } from '../../src/errors.ts';
import { readCheckpoint } from '../../trainer/checkpoints.ts';
import { type Resume, runTraining, type TrainingResult } from '../../trainer/index.ts';
import { bestBackend } from '../helpers/backends.ts';
import { liveMemory } from '../helpers/memory.ts';
import { expectSameRun } from './compare_runs.ts';
import { readMetrics, readRecord, type TinyProject, tinyProject } from './tiny_project.ts';

beforeAll(async () => {
  await selectBackend(bestBackend);
});

const visible = (folder: string) => readdirSync(folder).sort();
const checkpoints = (folder: string) => visible(folder).filter((name) => name.includes('checkpoint'));

/** 12 steps of 2 batches, with everything that has a state. */
function fullConfig(project: TinyProject, trainer: object = {}, adapter: object = {}): RunConfig {
  return project.config({
    trainer: {
      max_steps: 12,
      per_device_train_batch_size: 1,
      gradient_accumulation_steps: 2,
      eval_strategy: 'steps',
      eval_steps: 4,
      save_strategy: 'steps',
      save_steps: 2,
      neftune_noise_alpha: 5,
      label_smoothing_factor: 0.1,
      z_loss: 1e-3,
      sample_prompts: ['noun, n.'],
      sample_max_new_tokens: 4,
      sample_temperature: 0.7,
      ...trainer,
    },
    adapter: { lora_dropout: 0.1, ...adapter },
  });
}

/** Runs until `when` says so after a step: by a signal, or by an error as a crash. */
async function stopped(config: RunConfig, how: 'signal' | 'crash', when: (step: number) => boolean): Promise<void> {
  const progress = {
    step: ({ step }: { step: number }) => {
      if (!when(step)) return;
      if (how === 'crash') throw new UserError('crashed');
      process.emit('SIGTERM', 'SIGTERM');
    },
    log: () => {},
    message: () => {},
    finish: () => {},
  };
  const run = runTraining(config, { onMessage: () => {}, progress, handleSignals: true });
  await expect(run).rejects.toThrow(how === 'crash' ? 'crashed' : 'interrupted after step');
}

async function resumed(
  config: RunConfig,
  resume: Resume = true,
): Promise<{ result: TrainingResult; messages: string[] }> {
  const messages: string[] = [];
  const result = await runTraining(config, { onMessage: (line) => messages.push(line), resume });
  return { result, messages };
}

describe('a resumed run is the uninterrupted one', () => {
  it.each([
    ['signal', 3],
    ['signal', 4],
    ['signal', 12],
    ['crash', 7],
  ] as const)('after a %s at step %i', async (how, at) => {
    const project = await tinyProject();
    const whole = fullConfig(project, { output_dir: join(project.folder, 'whole') });
    const expected = await runTraining(whole, { onMessage: () => {} });
    const config = fullConfig(project);
    await stopped(config, how, (step) => step === at);
    const before = liveMemory();
    const { result, messages } = await resumed(config);
    expect(liveMemory()).toEqual(before);

    const from = how === 'signal' ? at : Math.floor((at - 1) / 2) * 2;
    expect(messages).toContainEqual(
      `resuming from ${join(project.outputDir, `checkpoint-${from}`)}: step ${from} of 12 is done`,
    );
    expectSameRun(project.outputDir, whole.trainer.output_dir);
    const { losses, gradNorms, evalLosses, steps, epochs, tokens } = expected;
    expect(result).toMatchObject({ losses, gradNorms, evalLosses, steps, epochs, tokens });
    expect(readRecord(project.outputDir)).toMatchObject({ status: 'finished', resumes: [{ step: from }] });
    expect(visible(project.outputDir).filter((name) => name.startsWith('.'))).toEqual([]);
  });

  it('with the dropout of DoRA and of a convolution', async () => {
    const project = await tinyProject();
    const adapter = { use_dora: true, target_modules: ['conv1d', 'in_proj', 'out_proj', 'embeddings'] };
    const whole = fullConfig(project, { output_dir: join(project.folder, 'whole') }, adapter);
    await runTraining(whole, { onMessage: () => {} });
    const config = fullConfig(project, {}, adapter);
    await stopped(config, 'signal', (step) => step === 5);
    await resumed(config);
    expectSameRun(project.outputDir, whole.trainer.output_dir);
  });

  it('when it is stopped again and again', async () => {
    const project = await tinyProject();
    const whole = fullConfig(project, { output_dir: join(project.folder, 'whole'), save_total_limit: 1 });
    await runTraining(whole, { onMessage: () => {} });
    const config = fullConfig(project, { save_total_limit: 1 });
    await stopped(config, 'crash', (step) => step === 3);
    for (const last of [6, 9]) {
      const progress = {
        step: ({ step }: { step: number }) => {
          if (step === last) throw new UserError('crashed');
        },
        log: () => {},
        message: () => {},
        finish: () => {},
      };
      const again = runTraining(config, { onMessage: () => {}, progress, resume: true });
      await expect(again).rejects.toThrow('crashed');
    }
    await resumed(config);
    expectSameRun(project.outputDir, whole.trainer.output_dir);
    expect(readRecord(project.outputDir)).toMatchObject({
      resumes: [{ step: 2 }, { step: 4 }, { step: 8 }],
    });
  });

  it('when it was finished already', async () => {
    const project = await tinyProject();
    const config = fullConfig(project);
    await runTraining(config, { onMessage: () => {} });
    cpSync(project.outputDir, join(project.folder, 'whole'), { recursive: true });
    rmSync(join(project.outputDir, 'adapter'), { recursive: true });
    await resumed(config);
    expectSameRun(project.outputDir, join(project.folder, 'whole'));
  });

  it('whatever the clock says', async () => {
    const project = await tinyProject();
    const whole = fullConfig(project, { output_dir: join(project.folder, 'whole') });
    await runTraining(whole, { onMessage: () => {} });
    const config = fullConfig(project);
    let days = 0;
    const clock = vi.spyOn(Date, 'now').mockImplementation(() => (days += (days % 2 ? -3 : 5) * 86_400_000));
    await stopped(config, 'signal', (step) => step === 5);
    const { result } = await resumed(config);
    clock.mockRestore();
    expectSameRun(project.outputDir, whole.trainer.output_dir);
    expect(result.seconds).toBeGreaterThan(0);
    expect(result.tokensPerSecond).toBeGreaterThan(0);
  });
});

describe('the checkpoint it goes on from', () => {
  /** A run stopped at step 7, with checkpoints of 2, 4, 6 and 7. */
  const stoppedRun = async () => {
    const project = await tinyProject();
    const whole = fullConfig(project, { output_dir: join(project.folder, 'whole') });
    await runTraining(whole, { onMessage: () => {} });
    const config = fullConfig(project);
    await stopped(config, 'signal', (step) => step === 7);
    return { project, config, whole: whole.trainer.output_dir };
  };

  it('passes over those that are torn, and says so', async () => {
    const { project, config, whole } = await stoppedRun();
    const file = (step: number, name: string) => join(project.outputDir, `checkpoint-${step}`, name);
    truncateSync(file(7, 'adapter_model.safetensors'), 100);
    rmSync(file(6, 'optimizer.safetensors'));
    truncateSync(file(4, 'SHA256SUMS'), 80);
    const { messages } = await resumed(config);
    const expected = [
      /checkpoint-7 is passed over: adapter_model\.safetensors is not as it was written$/,
      /checkpoint-6 is passed over: .*no such file.*optimizer\.safetensors/,
      /checkpoint-4 is passed over: SHA256SUMS is damaged$/,
      /^resuming from .*checkpoint-2: step 2 of 12 is done$/,
    ];
    for (const [i, line] of expected.entries()) expect(messages[i]).toMatch(line);
    expect(messages).toContain('removed what comes after it: checkpoint-4, checkpoint-6, checkpoint-7');
    expectSameRun(project.outputDir, whole);
  });

  it('is not one whose list of hashes is empty or short, or whose state another version wrote', async () => {
    const { project } = await stoppedRun();
    const folder = join(project.outputDir, 'checkpoint-7');
    const sums = readFileSync(join(folder, 'SHA256SUMS'), 'utf8');
    const fault = (content: string) => {
      writeFileSync(join(folder, 'SHA256SUMS'), content);
      return readCheckpoint(folder);
    };
    expect(fault('')).toEqual({ fault: 'SHA256SUMS is damaged' });
    const short = sums.split('\n').filter((line) => !line.endsWith('trainer_state.json'));
    expect(fault(short.join('\n'))).toEqual({ fault: 'SHA256SUMS does not list trainer_state.json' });
    const state = { ...JSON.parse(readFileSync(join(folder, 'trainer_state.json'), 'utf8')), version: 9 };
    writeFileSync(join(folder, 'trainer_state.json'), JSON.stringify(state));
    const sum = createHash('sha256').update(JSON.stringify(state)).digest('hex');
    const lines = [...short.filter(Boolean), `${sum}  trainer_state.json`];
    expect(() => fault(`${lines.join('\n')}\n`)).toThrow(
      /trainer_state\.json: version: .*another version of mambatune/,
    );
  });

  it('may be the one that a process was stopped in replacing', async () => {
    const { project, config, whole } = await stoppedRun();
    for (const step of [2, 4, 6]) rmSync(join(project.outputDir, `checkpoint-${step}`), { recursive: true });
    renameSync(join(project.outputDir, 'checkpoint-7'), join(project.outputDir, '.checkpoint-7.0123456789ab.tmp'));
    const { messages } = await resumed(config);
    expect(messages[0]).toMatch(/^resuming from .*checkpoint-7: step 7/);
    expectSameRun(project.outputDir, whole);
  });

  it('may be named; later ones go', async () => {
    const { project, config, whole } = await stoppedRun();
    const named = join(project.outputDir, 'checkpoint-4');
    const { messages } = await resumed(config, named);
    expect(messages[0]).toBe(`resuming from ${named}: step 4 of 12 is done`);
    expect(messages).toContainEqual('removed what comes after it: checkpoint-6, checkpoint-7');
    expectSameRun(project.outputDir, whole);
  });

  it('is none when there is none: the run begins at its first step', async () => {
    const project = await tinyProject();
    const { messages } = await resumed(fullConfig(project, { max_steps: 2 }));
    expect(messages[0]).toBe(`${project.outputDir}: no whole checkpoint to resume from; beginning at the first step`);
    expect(checkpoints(project.outputDir)).toEqual(['checkpoint-2']);
  });

  it('must be whole when it is named, and in the run folder', async () => {
    const { project, config } = await stoppedRun();
    const { outputDir } = project;
    rmSync(join(outputDir, 'checkpoint-4', 'optimizer.safetensors'));
    const attempt = (resume: Resume) => runTraining(config, { onMessage: () => {}, resume });
    await expect(attempt(join(outputDir, 'checkpoint-4'))).rejects.toThrow(
      /checkpoint-4 is not whole: .*optimizer\.safetensors.*Name another checkpoint, or only /,
    );
    await expect(attempt(join(outputDir, 'checkpoint-5'))).rejects.toThrow(/resume: there is no .*checkpoint-5; give/);
    const elsewhere = join(project.folder, 'whole', 'checkpoint-4');
    await expect(attempt(elsewhere)).rejects.toThrow(ConfigError);
    await expect(attempt(elsewhere)).rejects.toThrow(
      /is neither trainer\.output_dir, which is .*, nor a checkpoint in it/,
    );
    expect(existsSync(join(outputDir, '.run.lock'))).toBe(false);
    expect(checkpoints(outputDir)).toEqual(['checkpoint-2', 'checkpoint-4', 'checkpoint-6', 'checkpoint-7']);
  });

  it('says when lines of metrics are missing', async () => {
    const { project, config } = await stoppedRun();
    writeFileSync(join(project.outputDir, 'metrics.jsonl'), '');
    const { messages } = await resumed(config);
    expect(messages).toContainEqual(
      expect.stringMatching(/metrics\.jsonl lacks lines that it had when the checkpoint was written/),
    );
    expect(readMetrics(project.outputDir)[0]?.step).toBe(8);
  });
});

describe('the settings of a resumed run', () => {
  it('must be those that the numbers depend on', async () => {
    const project = await tinyProject();
    await stopped(fullConfig(project), 'signal', (step) => step === 3);
    const changed = project.config({
      trainer: { ...fullConfig(project).trainer, learning_rate: 0.02, seed: 2, optim: 'adamw' },
      adapter: { r: 3, lora_dropout: 0.1 },
    });
    const before = checkpoints(project.outputDir);
    const attempt = runTraining(changed, { onMessage: () => {}, resume: true });
    await expect(attempt).rejects.toThrow(ConfigError);
    await expect(attempt).rejects.toThrow(
      /checkpoint-3 belongs to a run with other settings:\n {2}adapter\.r is 3, the checkpoint has 2\n {2}trainer\.seed is 2, the checkpoint has 1\n {2}trainer\.learning_rate is 0\.02, the checkpoint has 0\.01\nGive this run/,
    );
    expect(checkpoints(project.outputDir)).toEqual(before);
    expect(readRecord(project.outputDir).status).toBe('interrupted');
  });

  it('must be made for the same data', async () => {
    const project = await tinyProject();
    await stopped(fullConfig(project), 'signal', (step) => step === 3);
    writeFileSync(project.trainFile, readFileSync(project.trainFile, 'utf8').split('\n').slice(1).join('\n'));
    await expect(resumed(fullConfig(project))).rejects.toThrow(/\n {2}data\.train\.sha256 is "[0-9a-f]{64}", the/);
  });

  it('may change where the numbers do not depend on them, which is told', async () => {
    const project = await tinyProject();
    await stopped(fullConfig(project), 'signal', (step) => step === 3);
    const { result, messages } = await resumed(fullConfig(project, { max_steps: 14, logging_steps: 2 }));
    expect(messages).toContain('trainer.max_steps is 14; it was 12 before');
    expect(messages).toContain('trainer.logging_steps is 2; it was 3 before');
    expect(result.steps).toBe(14);
  });
});

describe('a run folder that is lost while the run goes on', () => {
  it.each([
    ['removed', (folder: string) => rmSync(folder, { recursive: true })],
    [
      'taken by another process',
      (folder: string) => writeFileSync(join(folder, '.run.lock'), '{"pid":1,"host":"other"}'),
    ],
  ])('%s: ends with an error, and writes nothing more', async (_, lose) => {
    const project = await tinyProject();
    let left: string[] = [];
    const progress = {
      step: ({ step }: { step: number }) => {
        if (step !== 3) return;
        lose(project.outputDir);
        left = existsSync(project.outputDir) ? visible(project.outputDir) : [];
      },
      log: () => {},
      message: () => {},
      finish: () => {},
    };
    const run = runTraining(fullConfig(project), { onMessage: () => {}, progress });
    await expect(run).rejects.toThrow(/the folder, or its lock \.run\.lock, was removed or taken by another process/);
    expect(existsSync(project.outputDir) ? visible(project.outputDir) : []).toEqual(left);
  });
});
