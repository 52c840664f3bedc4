// SPDX-License-Identifier: Apache-2.0
/** Runs evaluation jobs on a base model, its adapters and whole models, one after the other on one loaded base. */
import { accessSync, constants, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { PeftModel } from '../../adapters/index.ts';
import { openCheckpoint } from '../../src/checkpoint/checkpoint.ts';
import { BASE_NAME } from '../../src/config/eval_checks.ts';
import type { EvalJob, EvalSection } from '../../src/config/eval_schema.ts';
import type { EvalConfig } from '../../src/config/schema.ts';
import { UserError } from '../../src/errors.ts';
import { fileError, writeFileAtomic } from '../../src/files.ts';
import { type HubOptions, resolveModelFolder } from '../../src/hub.ts';
import { createEventWriter } from '../../src/logging/tensorboard/event_writer.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { AutoTokenizer } from '../../src/tokenizer/tokenizer.ts';
import type { Units } from './bootstrap.ts';
import { prepareGenerate } from './generate.ts';
import type { JobContext, PreparedJob } from './job.ts';
import { prepareMultipleChoice } from './multiple_choice.ts';
import { preparePerplexity } from './perplexity.ts';
import { type EvalReport, type JobRun, reportOf, type Variant } from './report.ts';

export interface EvaluationIo {
  onMessage(line: string): void;
  /** Called as a job goes on. */
  onProgress?(state: { variant: string; job: string; done: number; total: number }): void;
  signal?: AbortSignal;
  /** Cache and address of the Hub. */
  hubOptions?: Pick<HubOptions, 'cacheDir' | 'hubUrl'>;
}

/**
 * Does what a config's eval section says. What can be wrong in its files is looked at before a model is loaded; eval.json is written
 * at the end.
 *
 * @param config as `loadEvalConfig` gives it
 * @throws UserError when a model, an adapter or data are missing, damaged or do not fit, or the output cannot be written; the
 *   signal's reason when it is aborted
 */
export async function runEvaluation(config: EvalConfig, section: EvalSection, io: EvaluationIo): Promise<EvalReport> {
  const start = performance.now();
  const startedAt = new Date().toISOString();
  if (section.output_dir !== null) checkOutput(section.output_dir);
  const { jobs, vocabSize } = await prepare(config, section, io);
  const variants = variantsOf(config, section);
  const runs: JobRun[] = jobs.map((job) => ({ job, gate: null, results: [] }));
  for (const [at, job] of jobsOf(config, section).entries()) (runs[at] as JobRun).gate = job.gate;

  await withModel(config, config.model.path, config.model.revision, io, async (base) => {
    await runJobs(base, BASE_NAME, runs, section, io);
    for (const { name, path } of variants.filter(({ kind }) => kind === 'adapter')) {
      const adapter = PeftModel.fromPretrained(base, path);
      try {
        await runJobs(base, name, runs, section, io);
      } finally {
        adapter.unload();
      }
    }
  });
  for (const { name, path } of variants.filter(({ kind }) => kind === 'model')) {
    await withModel(config, path, undefined, io, async (model) => {
      checkVocabulary(model, path, vocabSize);
      await runJobs(model, name, runs, section, io);
    });
  }

  const report = reportOf(runs, variants, {
    started_at: startedAt,
    seconds: (performance.now() - start) / 1000,
    backend: tf.getBackend(),
    matmul_precision: config.model.matmul_precision,
    section,
  });
  if (section.output_dir !== null) writeReport(section.output_dir, report, config.logging.tensorboard);
  return report;
}

function writeReport(folder: string, report: EvalReport, tensorboard: boolean): void {
  writeFileAtomic(join(folder, 'eval.json'), `${JSON.stringify(report, null, 2)}\n`);
  if (!tensorboard) return;
  for (const { name } of report.variants) {
    const writer = createEventWriter(join(folder, 'tensorboard', name), { purgeStep: 0 });
    writer.scalars(0, scalarsOf(report, name));
    writer.close();
  }
}

/** Under `job/metric`, so that the models are the runs of a chart. */
function scalarsOf({ jobs }: EvalReport, name: string): Record<string, number> {
  const entries = jobs.flatMap((job) =>
    job.results
      .filter(({ variant }) => variant === name)
      .flatMap(({ metrics }) => metrics.map((metric) => [`${job.name}/${metric.name}`, metric.value] as const)),
  );
  return Object.fromEntries(entries);
}

/** The jobs of a section; without any, the perplexity of data.eval as training evaluates it. */
function jobsOf({ data }: EvalConfig, { jobs }: EvalSection): EvalJob[] {
  const { max_length } = data;
  return jobs ?? [{ type: 'perplexity', name: null, data: null, max_length, limit: null, gate: null }];
}

function variantsOf({ model }: EvalConfig, { adapters, models }: EvalSection): Variant[] {
  const list = (kind: Variant['kind'], map: Record<string, string>) =>
    Object.entries(map).map(([name, path]) => ({ name, kind, path }));
  return [{ name: BASE_NAME, kind: 'base', path: model.path }, ...list('adapter', adapters), ...list('model', models)];
}

async function prepare(
  config: EvalConfig,
  section: EvalSection,
  { onMessage, hubOptions }: EvaluationIo,
): Promise<{ jobs: PreparedJob[]; vocabSize: number }> {
  const { path, revision } = config.model;
  const hub = { ...hubOptions, revision, onMessage };
  const { config: modelConfig, source } = openCheckpoint(await resolveModelFolder(path, hub));
  source.close();
  const { vocabSize } = modelConfig;
  const tokenizer = await AutoTokenizer.fromPretrained(path, hub);
  const context: JobContext = { tokenizer, vocabSize, seed: config.trainer.seed, onMessage };
  const jobs: PreparedJob[] = [];
  for (const job of jobsOf(config, section)) jobs.push(await prepareJob(job, config, context));
  return { jobs, vocabSize };
}

function prepareJob(job: EvalJob, { data }: EvalConfig, context: JobContext): Promise<PreparedJob> {
  switch (job.type) {
    case 'perplexity':
      return preparePerplexity(job, data, context);
    case 'multiple_choice':
      return prepareMultipleChoice(job, context);
    case 'generate':
      return prepareGenerate(job, context);
  }
}

async function withModel(
  { model: { matmul_precision: matmulPrecision }, trainer: { backend } }: EvalConfig,
  path: string,
  revision: string | undefined,
  { onMessage, hubOptions }: EvaluationIo,
  body: (model: MambaForCausalLM) => Promise<void>,
): Promise<void> {
  const model = await MambaForCausalLM.fromPretrained(path, {
    ...hubOptions,
    ...(revision !== undefined && { revision }),
    backend,
    matmulPrecision,
    onMessage,
  });
  try {
    await body(model);
  } finally {
    model.dispose();
  }
}

async function runJobs(
  model: MambaForCausalLM,
  variant: string,
  runs: readonly JobRun[],
  section: EvalSection,
  { signal, onProgress }: EvaluationIo,
): Promise<void> {
  for (const { job, results } of runs) {
    const start = performance.now();
    const units: Units = await job.run(model, {
      batchSize: section.batch_size,
      window: section.window,
      ...(signal && { signal }),
      onProgress: (done, total) => onProgress?.({ variant, job: job.name, done, total }),
    });
    results.push({ units, seconds: (performance.now() - start) / 1000 });
  }
}

function checkVocabulary(model: MambaForCausalLM, path: string, vocabSize: number): void {
  if (model.config.vocabSize === vocabSize) return;
  throw new UserError(
    `${path}: its vocabulary has ${model.config.vocabSize} ids, the base model's ${vocabSize}; eval.models must have the base's tokenizer`,
  );
}

function checkOutput(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw fileError(error, folder, 'write');
  }
}
