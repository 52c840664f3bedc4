// SPDX-License-Identifier: Apache-2.0
/** Whole runs from a config: what they leave in their folder, how they end. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { PeftModel } from '../../adapters/index.ts';
import { selectBackend } from '../../src/backends/select.ts';
import { openSafetensors } from '../../src/checkpoint/safetensors.ts';
import { loadConfig } from '../../src/config/load.ts';
import { ConfigError, UserError } from '../../src/errors.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { type Checkpoint, readCheckpoint } from '../../trainer/checkpoints.ts';
import type { CoverageRow } from '../../trainer/coverage.ts';
import { InterruptedError, runTraining } from '../../trainer/index.ts';
import { bestBackend } from '../helpers/backends.ts';
import { liveMemory } from '../helpers/memory.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { readEventFolder } from '../logging/read_event_file.ts';
import { readMetrics, readRecord, readSamples, tinyProject } from './tiny_project.ts';

beforeAll(async () => {
  await selectBackend(bestBackend);
});

const quiet = { onMessage: () => {} };
const visible = (folder: string) => readdirSync(folder).sort();

describe('a run', () => {
  it('packs its records, and evaluates them as without packing', async () => {
    const project = await tinyProject();
    const messages: string[] = [];
    const say = { onMessage: (line: string) => messages.push(line) };
    const settings = (packing: boolean) =>
      project.config({
        trainer: { learning_rate: 1e-12, num_train_epochs: 1 },
        data: { max_length: 256, packing },
      });
    const plain = await runTraining(settings(false), say);
    const packed = await runTraining(settings(true), say);
    expect(messages).toContainEqual(
      expect.stringMatching(/train\.jsonl: 10 records packed into \d rows of up to 256 tokens, \d\d\.\d % full$/),
    );
    expect(messages).toContainEqual(expect.stringMatching(/^\d packed rows, batch 2: \d steps/));
    expect(packed.steps).toBeLessThan(plain.steps);
    expect(packed.tokens).toBe(plain.tokens);
    expect(packed.evalLosses[0]?.loss).toBeCloseTo(plain.evalLosses[0]?.loss as number, 6);
  });

  it('leaves config, metrics, checkpoints, coverage, record and adapter', async () => {
    const project = await tinyProject();
    const config = project.config({ trainer: { save_total_limit: 1 } });
    const messages: string[] = [];
    const before = liveMemory();
    const result = await runTraining(config, { onMessage: (line) => messages.push(line) });
    expect(liveMemory()).toEqual(before);

    const { outputDir } = project;
    expect(visible(outputDir)).toEqual([
      'adapter',
      'checkpoint-10',
      'config.yaml',
      'coverage.json',
      'metrics.jsonl',
      'report.html',
      'run.json',
      'tensorboard',
    ]);
    expect(loadConfig(join(outputDir, 'config.yaml')).config).toEqual(config);

    expect(result).toMatchObject({ steps: 10, epochs: 2, outputDir, adapterFolder: join(outputDir, 'adapter') });
    expect(result.losses).toHaveLength(10);
    expect(result.losses.every(Number.isFinite)).toBe(true);
    expect(result.losses.slice(5).reduce((a, b) => a + b)).toBeLessThan(
      result.losses.slice(0, 5).reduce((a, b) => a + b),
    );

    expect(readFileSync(join(outputDir, 'report.html'), 'utf8')).toContain('<span class="status finished">');
    const metrics = readMetrics(outputDir);
    expect(metrics.map(({ step, ...line }) => [step, 'eval_loss' in line])).toEqual([
      [3, false],
      [5, true],
      [6, false],
      [9, false],
      [10, false],
      [10, true],
    ]);
    const mean = (from: number, to: number) => result.losses.slice(from, to).reduce((a, b) => a + b, 0) / (to - from);
    expect(metrics[0]).toEqual({
      step: 3,
      epoch: 0.6,
      loss: mean(0, 3),
      grad_norm: result.gradNorms[2],
      learning_rate: 0.01 * (1 - 2 / 10),
      tokens: expect.any(Number),
      tokens_per_second: expect.any(Number),
      peak_memory_bytes: expect.any(Number),
    });
    expect(metrics[3]).toMatchObject({ loss: mean(6, 9) });
    expect(metrics[4]).toMatchObject({ loss: mean(9, 10), tokens: result.tokens });
    const [first, second] = result.evalLosses;
    expect(metrics[1]).toMatchObject({ epoch: 1, eval_loss: first?.loss, eval_perplexity: Math.exp(first?.loss ?? 0) });
    expect(metrics[5]).toMatchObject({ epoch: 2, eval_loss: second?.loss });

    const coverage = JSON.parse(readFileSync(join(outputDir, 'coverage.json'), 'utf8')) as CoverageRow[];
    expect(coverage).toHaveLength(2 * (2 * 3 + 1));
    expect(coverage.every(({ grad_norm, step }) => Number(grad_norm) > 0 && (step === 1 || step === 2))).toBe(true);

    const record = readRecord(outputDir);
    expect(record).toMatchObject({
      mambatune: expect.stringMatching(/^\d+\.\d+\.\d+/),
      status: 'finished',
      backend: bestBackend,
      model: { name: project.modelFolder, sha256: { 'model.safetensors': expect.stringMatching(/^[0-9a-f]{64}$/) } },
      init_from: null,
      data: { train: { examples: 10, sha256: expect.stringMatching(/^[0-9a-f]{64}$/) }, eval: { examples: 3 } },
      result: { steps: 10, tokens: result.tokens, loss: result.losses[9] },
    });
    expect(messages.some((line) => /trainable parameters: [\d,]+ of [\d,]+/.test(line))).toBe(true);
    expect(messages).toContainEqual(expect.stringMatching(/^step 10 {2}epoch 2\.00 {2}eval loss \d\.\d{4}/));
    expect(messages.at(-1)).toMatch(/^10 steps in .*, [\d,]+ tokens\/s, peak memory .*; the adapter is in .*adapter$/);
  });

  it('writes a checkpoint with the adapter, the moments and where the run stands', async () => {
    const project = await tinyProject();
    const { losses, tokens } = await runTraining(
      project.config({ trainer: { save_strategy: 'steps', save_steps: 4, gradient_accumulation_steps: 2 } }),
      quiet,
    );
    expect(losses).toHaveLength(6);
    expect(visible(project.outputDir).filter((name) => name.startsWith('checkpoint'))).toEqual([
      'checkpoint-4',
      'checkpoint-6',
    ]);
    const folder = join(project.outputDir, 'checkpoint-4');
    expect(visible(folder)).toEqual([
      'README.md',
      'SHA256SUMS',
      'adapter_config.json',
      'adapter_model.safetensors',
      'optimizer.safetensors',
      'trainer_state.json',
    ]);
    const state = JSON.parse(readFileSync(join(folder, 'trainer_state.json'), 'utf8')) as Record<string, unknown>;
    expect(state).toMatchObject({
      step: 4,
      cursor: 4,
      is_evaluated: true,
      total_steps: 6,
      steps_per_epoch: 3,
      epoch: 4 / 3,
      micro_step: 7,
      seed: 1,
      recorder: { interval: { losses: [losses[3]] }, losses: losses.slice(0, 4) },
    });
    expect(state.tokens).toBeLessThan(tokens);

    const adapter = openSafetensors(join(folder, 'adapter_model.safetensors'));
    const optimizer = openSafetensors(join(folder, 'optimizer.safetensors'));
    expect([...optimizer.readInt32('step')]).toEqual([4]);
    expect(optimizer.entries.size).toBe(1 + 3 * adapter.entries.size);
    for (const [name, { shape }] of adapter.entries) {
      expect(optimizer.readFloat32(name)).toEqual(adapter.readFloat32(name));
      for (const moment of ['exp_avg', 'exp_avg_sq']) {
        expect(optimizer.entries.get(`${name}.${moment}`)?.shape).toEqual(shape);
        expect(optimizer.readFloat32(`${name}.${moment}`).some((value) => value !== 0)).toBe(true);
      }
    }
    adapter.close();
    optimizer.close();
    const last = readFileSync(join(project.outputDir, 'checkpoint-6', 'adapter_model.safetensors'));
    expect(readFileSync(join(project.outputDir, 'adapter', 'adapter_model.safetensors')).equals(last)).toBe(true);
  });

  it('is the same again with the same seed, and another with another', async () => {
    const project = await tinyProject();
    const losses = async (seed: number) =>
      (await runTraining(project.config({ trainer: { seed }, adapter: { lora_dropout: 0.1 } }), quiet)).losses;
    const first = await losses(1);
    expect(await losses(1)).toEqual(first);
    expect(await losses(2)).not.toEqual(first);
  });

  it('gives the same with gradient checkpointing', async () => {
    const project = await tinyProject();
    const losses = async (checkpointing: boolean) =>
      (await runTraining(project.config({ trainer: { gradient_checkpointing: checkpointing } }), quiet)).losses;
    expect(await losses(true)).toEqual(await losses(false));
  });

  it('goes on from an adapter whose settings agree, and lists those that do not', async () => {
    const project = await tinyProject();
    await runTraining(project.config(), quiet);
    const folder = join(project.outputDir, 'adapter');
    const next = { output_dir: join(project.folder, 'second'), learning_rate: 1e-12, max_steps: 1 };
    const { evalLosses } = await runTraining(project.config({ trainer: next, adapter: { init_from: folder } }), quiet);
    const [, end] = readMetrics(project.outputDir).filter((line) => 'eval_loss' in line);
    expect(evalLosses[0]?.loss).toBeCloseTo(end?.eval_loss ?? 0, 6);
    expect(readRecord(next.output_dir)).toMatchObject({ init_from: { folder } });

    const changed = { init_from: folder, r: 3, use_rslora: true, target_modules: ['x_proj'] };
    const error = runTraining(project.config({ trainer: next, adapter: changed }), quiet);
    await expect(error).rejects.toThrow(ConfigError);
    await expect(error).rejects.toThrow(
      /adapter\.r is 3, the adapter has 2\n.*target_modules is \[x_proj\], the adapter has \[embeddings, in_proj, out_proj, x_proj\]\n.*use_rslora is true, the adapter has false/,
    );
  });

  it('says what one step cannot check', async () => {
    const project = await tinyProject();
    const messages: string[] = [];
    const config = project.config({ trainer: { max_steps: 1 } });
    await runTraining(config, { onMessage: (line) => messages.push(line) });
    expect(messages).toContainEqual(
      expect.stringMatching(/^gradient coverage: 7 of 14 trainable tensors were not checked, because only 1 step ran/),
    );
    const rows = JSON.parse(readFileSync(join(project.outputDir, 'coverage.json'), 'utf8')) as CoverageRow[];
    expect(rows.filter((row) => row.step === null && row.grad_norm === null)).toHaveLength(7);
  });
});

describe('a signal', () => {
  it('ends the run after the step, with a checkpoint and the adapter saved', async () => {
    const project = await tinyProject();
    const listeners = process.listenerCount('SIGINT');
    const messages: string[] = [];
    const config = project.config();
    const progress = {
      step: ({ step }: { step: number }) => {
        if (step === 2) process.emit('SIGINT', 'SIGINT');
      },
      log: () => {},
      message: (line: string) => messages.push(line),
      finish: () => {},
    };
    const before = liveMemory();
    const error = runTraining(config, { ...quiet, progress, handleSignals: true });
    await expect(error).rejects.toThrow(InterruptedError);
    await expect(error).rejects.toThrow(/^interrupted after step 2 of 10; saved .*checkpoint-2 and .*adapter$/);
    await expect(error).rejects.toMatchObject({ exitCode: 130 });
    expect(process.listenerCount('SIGINT')).toBe(listeners);
    expect(messages).toContain('SIGINT: finishing this step, then saving; once more ends at once');
    expect(liveMemory()).toEqual(before);

    const { outputDir } = project;
    expect(visible(outputDir)).toContain('checkpoint-2');
    expect(readRecord(outputDir).status).toBe('interrupted');
    expect(readMetrics(outputDir)).toHaveLength(1);
    const model = await MambaForCausalLM.fromPretrained(project.modelFolder, { backend: bestBackend });
    expect(PeftModel.fromPretrained(model, join(outputDir, 'adapter')).tensors().size).toBe(14);
    model.dispose();
  });
});

describe('a run that fails', () => {
  it('keeps its last good checkpoint, and says where the numbers went wrong', async () => {
    const project = await tinyProject();
    const config = project.config({ trainer: { save_strategy: 'steps', save_steps: 1, learning_rate: 1e4 } });
    const before = liveMemory();
    const error = runTraining(config, quiet);
    await expect(error).rejects.toThrow(UserError);
    await expect(error).rejects.toThrow(/^step \d+: the loss is .* must be finite\. .*(backbone|head|weight)/);
    expect(liveMemory()).toEqual(before);
    const { outputDir } = project;
    const record = readRecord(outputDir);
    expect(record).toMatchObject({ status: 'failed', error: expect.stringContaining('must be finite') });
    const step = Number(/^step (\d+)/.exec(String(record.error))?.[1]);
    const checkpoints = visible(outputDir).filter((name) => name.startsWith('checkpoint'));
    expect(checkpoints).toHaveLength(step - 1);
    expect(existsSync(join(outputDir, 'adapter'))).toBe(false);
  });

  it('clears the progress line and leaves no temporary file when a checkpoint cannot be written', async () => {
    const project = await tinyProject();
    const save = vi.spyOn(PeftModel.prototype, 'savePretrained').mockRejectedValue(new UserError('the disk is full'));
    const finish = vi.fn();
    const progress = { step: () => {}, log: () => {}, message: () => {}, finish };
    await expect(runTraining(project.config(), { ...quiet, progress })).rejects.toThrow('the disk is full');
    save.mockRestore();
    expect(finish).toHaveBeenCalled();
    expect(visible(project.outputDir)).toEqual([
      'config.yaml',
      'coverage.json',
      'metrics.jsonl',
      'report.html',
      'run.json',
      'tensorboard',
    ]);
    expect(readRecord(project.outputDir)).toMatchObject({ status: 'failed', error: 'the disk is full' });
  });
});

describe('what training adds to the loss', () => {
  const run = async (trainer: object) => {
    const project = await tinyProject();
    const settings = { learning_rate: 1e-12, max_steps: 2, eval_strategy: 'steps', eval_steps: 2, ...trainer };
    return runTraining(project.config({ trainer: settings }), quiet);
  };

  it.each([[{ label_smoothing_factor: 0.2 }], [{ z_loss: 0.01 }], [{ neftune_noise_alpha: 20 }]])(
    '%j changes the training loss and leaves evaluation as it is',
    async (trainer) => {
      const plain = await run({});
      const changed = await run(trainer);
      expect(changed.losses[0]).not.toBe(plain.losses[0]);
      expect(changed.evalLosses[0]?.loss).toBeCloseTo(plain.evalLosses[0]?.loss ?? 0, 7);
      expect((await run(trainer)).losses).toEqual(changed.losses);
    },
  );
});

describe('samples', () => {
  it('are written before the first step and at each evaluation, the same for the same seed', async () => {
    const project = await tinyProject();
    const prompts = ['noun, n.', 'A'];
    const messages: string[] = [];
    const samplesOf = async (trainer: object) => {
      const config = project.config({ trainer: { sample_prompts: prompts, sample_max_new_tokens: 5, ...trainer } });
      await runTraining(config, { onMessage: (line) => messages.push(line) });
      return readSamples(project.outputDir);
    };
    const greedy = await samplesOf({});
    expect(greedy.map(({ step, epoch }) => [step, epoch])).toEqual([
      [0, 0],
      [5, 1],
      [10, 2],
    ]);
    for (const { samples } of greedy) {
      expect(samples.map(({ prompt }) => prompt)).toEqual(prompts);
      for (const { completion } of samples) expect(completion.length).toBeGreaterThan(0);
    }
    expect(messages).toContainEqual(expect.stringMatching(/^step 10 {2}sample {2}"noun, n\./));
    const drawn = await samplesOf({ sample_temperature: 1.5 });
    expect(drawn[0]).not.toEqual(greedy[0]);
    expect(await samplesOf({ sample_temperature: 1.5 })).toEqual(drawn);
    const events = readEventFolder(join(project.outputDir, 'tensorboard')).flatMap(({ values }) => values);
    const texts = events.filter(({ tag }) => tag === 'samples/0').map(({ text }) => text);
    expect(texts).toHaveLength(3);
    expect(texts[2]).toContain(drawn[2]?.samples[0]?.completion.split('\n')[0]);
  });
});

describe('on_divergence', () => {
  /** A run in which the loss of some windows of data is NaN: those that start with a given token. */
  const poisoned = (isPoisoned: (cursor: number) => boolean) => {
    const lossSumOn = MambaForCausalLM.prototype.lossSumOn;
    let window = 0;
    const spy = vi.spyOn(MambaForCausalLM.prototype, 'lossSumOn').mockImplementation(function (
      this: MambaForCausalLM,
      batch,
    ) {
      const { lossSum, count } = lossSumOn.call(this, batch);
      return { lossSum: isPoisoned(window++) ? tf.mul(lossSum, Number.NaN) : lossSum, count };
    });
    onTestFinished(() => spy.mockRestore());
  };
  // Recorded steps do not come through here.
  const settings = { save_strategy: 'steps', save_steps: 3, eval_strategy: 'no', cuda_graphs: false };

  it('skip leaves the step out, and says where it failed', async () => {
    const project = await tinyProject();
    poisoned((window) => window === 4);
    const messages: string[] = [];
    const config = project.config({ trainer: { ...settings, on_divergence: 'skip' } });
    const before = liveMemory();
    const result = await runTraining(config, { onMessage: (line) => messages.push(line) });
    expect(liveMemory()).toEqual(before);
    expect(messages).toContainEqual(expect.stringMatching(/^step 5 is left out, its gradient is not finite: .*/));
    expect(result).toMatchObject({ steps: 10, skippedSteps: 1 });
    expect(result.losses.map(Number.isNaN).indexOf(true)).toBe(4);
    const optimizer = openSafetensors(join(project.outputDir, 'checkpoint-10', 'optimizer.safetensors'));
    expect([...optimizer.readInt32('step')]).toEqual([9]);
    optimizer.close();
    const means = readMetrics(project.outputDir).map((line) => ('loss' in line ? line.loss : Number.NaN));
    expect(means.every(Number.isFinite)).toBe(true);
    expect(means[1]).toBe(((result.losses[3] ?? 0) + (result.losses[5] ?? 0)) / 2);
  });

  it('skip ends the run when there is no end to it', async () => {
    const project = await tinyProject();
    poisoned((window) => window > 1);
    const run = runTraining(project.config({ trainer: { ...settings, on_divergence: 'skip', max_steps: 30 } }), quiet);
    await expect(run).rejects.toThrow(/^step 13: the loss is NaN.*\n.*\nThe 10 steps before it were skipped too\.$/s);
  });

  it('rollback goes back to the last checkpoint and on with the data that follows', async () => {
    const project = await tinyProject();
    poisoned((window) => window === 4);
    const messages: string[] = [];
    const config = project.config({ trainer: { ...settings, on_divergence: 'rollback' } });
    const result = await runTraining(config, { onMessage: (line) => messages.push(line) });
    expect(messages).toContainEqual(
      `step 5: loss NaN, gradient norm NaN; rolling back to ${join(project.outputDir, 'checkpoint-3')}, and on with the data after this step's`,
    );
    expect(result.steps).toBe(10);
    expect(result.losses.every(Number.isFinite)).toBe(true);
    expect(readMetrics(project.outputDir).map(({ step }) => step)).toEqual([3, 6, 9, 10]);
    const { state } = readCheckpoint(join(project.outputDir, 'checkpoint-10')) as Checkpoint;
    expect(state).toMatchObject({ step: 10, cursor: 12 });
  });

  it('rollback ends the run when it comes back to the same checkpoint too often', async () => {
    const project = await tinyProject();
    poisoned((window) => window > 4);
    const config = project.config({ trainer: { ...settings, on_divergence: 'rollback' } });
    await expect(runTraining(config, quiet)).rejects.toThrow(/has rolled back to checkpoint-3 3 times already\.$/);
  });

  it('rollback ends the run when there is no checkpoint yet', async () => {
    const project = await tinyProject();
    poisoned(() => true);
    const config = project.config({ trainer: { ...settings, on_divergence: 'rollback' } });
    await expect(runTraining(config, quiet)).rejects.toThrow(
      /^step 1: .*There is no checkpoint yet to roll back to\.$/s,
    );
  });

  it('loss_watchdog_threshold ends a run whose loss stays high', async () => {
    const project = await tinyProject();
    const trainer = { ...settings, loss_watchdog_threshold: 0.5, loss_watchdog_patience: 4 };
    await expect(runTraining(project.config({ trainer }), quiet)).rejects.toThrow(
      /^step 4: the loss is \d\.\d+, and has been above loss_watchdog_threshold \(0\.5\) for 4 steps in a row\./,
    );
  });
});

describe('the best model', () => {
  it('ends the run by early stopping, and is loaded at the end', async () => {
    const project = await tinyProject();
    const messages: string[] = [];
    const trainer = {
      max_steps: 60,
      learning_rate: 0.2,
      lr_scheduler_type: 'constant',
      eval_strategy: 'steps',
      eval_steps: 2,
      save_strategy: 'steps',
      save_steps: 2,
      save_total_limit: 1,
      load_best_model_at_end: true,
      early_stopping_patience: 2,
    };
    const result = await runTraining(project.config({ trainer }), { onMessage: (line) => messages.push(line) });
    const evalLosses = result.evalLosses.map(({ loss }) => loss);
    const best = Math.min(...evalLosses);
    const bestStep = result.evalLosses.find(({ loss }) => loss === best)?.step ?? 0;
    expect(result.best).toEqual({ step: bestStep, metric: best });
    expect(result.steps).toBe(bestStep + 4);
    expect(messages).toContain(
      `early stopping after step ${result.steps}: 2 evaluations without improvement of eval_loss, whose best was ${best} at step ${bestStep}`,
    );
    expect(visible(project.outputDir).filter((name) => name.startsWith('checkpoint'))).toEqual(
      [`checkpoint-${bestStep}`, `checkpoint-${result.steps}`].sort(),
    );
    const bytes = (folder: string) => readFileSync(join(project.outputDir, folder, 'adapter_model.safetensors'));
    expect(bytes('adapter').equals(bytes(`checkpoint-${bestStep}`))).toBe(true);
    expect(bytes('adapter').equals(bytes(`checkpoint-${result.steps}`))).toBe(false);

    const again = await runTraining(project.config({ trainer }), { ...quiet, resume: true });
    expect(again).toMatchObject({ steps: result.steps, best: result.best });
    expect(bytes('adapter').equals(bytes(`checkpoint-${bestStep}`))).toBe(true);
  });

  it('follows reduce_lr_on_plateau', async () => {
    const project = await tinyProject();
    const trainer = {
      learning_rate: 1e-9,
      lr_scheduler_type: 'reduce_lr_on_plateau',
      lr_scheduler_kwargs: { patience: 1, factor: 0.5, eps: 0 },
      eval_strategy: 'steps',
      eval_steps: 1,
      logging_steps: 1,
    };
    await runTraining(project.config({ trainer }), quiet);
    const rates = readMetrics(project.outputDir).flatMap((line) => ('loss' in line ? [line.learning_rate / 1e-9] : []));
    expect(rates).toEqual([1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625]);
  });
});

describe('the run folder', () => {
  it('may hold an earlier run, which is replaced when training begins, and not before', async () => {
    const project = await tinyProject();
    await runTraining(project.config(), quiet);
    writeFileSync(join(project.outputDir, 'notes.txt'), 'mine');
    const earlier = visible(project.outputDir);
    const broken = project.config({ adapter: { target_modules: ['nothing'] } });
    await expect(runTraining(broken, quiet)).rejects.toThrow(/nothing/);
    expect(visible(project.outputDir)).toEqual(earlier);

    const messages: string[] = [];
    const config = project.config({ trainer: { max_steps: 1, save_strategy: 'no', eval_strategy: 'no' } });
    await runTraining(config, { onMessage: (line) => messages.push(line) });
    expect(messages[0]).toBe(`${project.outputDir}: replacing the earlier run`);
    expect(visible(project.outputDir)).toEqual([
      'adapter',
      'config.yaml',
      'coverage.json',
      'metrics.jsonl',
      'notes.txt',
      'report.html',
      'run.json',
      'tensorboard',
    ]);
    expect(readMetrics(project.outputDir)).toHaveLength(1);
  });

  it('may not hold anything else', async () => {
    const project = await tinyProject();
    mkdirSync(project.outputDir);
    writeFileSync(join(project.outputDir, 'thesis.tex'), 'mine');
    await expect(runTraining(project.config(), quiet)).rejects.toThrow(
      /output_dir: .* is not empty \(thesis\.tex\) and holds no run\.json/,
    );
    writeFileSync(join(project.outputDir, 'run.json'), '{');
    await expect(runTraining(project.config(), quiet)).rejects.toThrow(/holds a run\.json that cannot be read: .*:1:2/);
  });

  it('must be writable', async () => {
    const project = await tinyProject();
    const file = join(temporaryFolder(), 'file');
    writeFileSync(file, '');
    const config = project.config({ trainer: { output_dir: join(file, 'run') } });
    await expect(runTraining(config, quiet)).rejects.toThrow(/cannot write .*a part of this path is a file/);
  });
});
