// SPDX-License-Identifier: Apache-2.0
/** What a run would be, and all that is wrong with its config, without its weights and without a trace in its folder. */
import { existsSync } from 'node:fs';
import * as tf from '@tensorflow/tfjs-core';
import {
  openSources,
  type SequenceList,
  type TokenizedDataset,
  tokenCounts,
  tokenizeSources,
} from '../datasets/index.ts';
import { selectBackend } from '../src/backends/select.ts';
import { openCheckpoint, readModelConfig } from '../src/checkpoint/checkpoint.ts';
import { checkTensorHeaders } from '../src/checkpoint/expected_tensors.ts';
import { examineConfig, listError } from '../src/config/load.ts';
import { type RunConfig, runConfigSchema } from '../src/config/schema.ts';
import { UserError } from '../src/errors.ts';
import { resolveModelFolder, selectConfigFile } from '../src/hub.ts';
import type { MambaConfig } from '../src/model/config.ts';
import { AutoTokenizer, type Tokenizer } from '../src/tokenizer/tokenizer.ts';
import { lengthMultiple } from './loop.ts';
import { type PlannedMemory, type PlannedModel, planModel } from './planned_memory.ts';
import { exampleOptions, type RunIo } from './run.ts';
import { inspectRunFolder } from './run_folder.ts';
import { planOfRun, totalsOf } from './run_plan.ts';
import { padTokenId } from './sft_trainer.ts';
import { timeSteps } from './timed_steps.ts';
import { trainingRows } from './training_rows.ts';

export interface DryRun {
  /** Of the run; the memory is that of the native CPU backend. */
  backend: string;
  trainable: number;
  all: number;
  /** Each module that trains, with its share of what trains, 0 to 1. */
  modules: { name: string; parameters: number; share: number }[];
  /** Records, or packed rows. */
  rows: number;
  steps: number;
  epochs: number;
  steps_per_epoch: number;
  tokens_per_epoch: number;
  /** Of all steps, without padding. */
  tokens: number;
  /** Share of padding in the batches, 0 to 1. */
  padding: number;
  largest_batch: { batch: number; seqlen: number };
  /** Null where the native addon is missing. */
  memory: PlannedMemory | null;
  /** When steps were timed. */
  time: { timed_steps: number; seconds_per_step: number; seconds: number } | null;
}

export interface DryRunIo extends Pick<RunIo, 'onMessage' | 'onTokenize' | 'hubOptions'> {
  /** Steps to take and time, with the weights loaded; 0 for none. */
  timedSteps: number;
}

type Sections = Pick<Partial<RunConfig>, 'model' | 'adapter' | 'data' | 'trainer'>;

/**
 * Plans the run of a config file by the code that trains.
 *
 * @throws ConfigError with every problem of the file, the paths, the data and the adapter
 */
export async function dryRun(path: string, overrides: readonly string[], io: DryRunIo): Promise<DryRun> {
  const examined = examineConfig(path, overrides);
  const problems = [...examined.problems];
  const attempt = async <T>(action: () => T | Promise<T>): Promise<T | undefined> => {
    try {
      return await action();
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      problems.push(error.message);
      return undefined;
    }
  };
  const sections = examined.config ?? soundSections(examined.values, examined.keys);
  const found = await examineSections(sections, io, attempt);
  const { config } = examined;
  try {
    const { train, tokenizer, model } = found;
    if (!config || !train || !tokenizer || !model || problems.length > 0) throw listError(path, problems);
    const rows = trainingRows(train, config.data.packing, io.onMessage);
    const evalExamples = config.trainer.eval_strategy === 'no' ? undefined : found.evaluation?.examples;
    return await describe({ config, rows, evalExamples, tokenizer, model }, io);
  } finally {
    found.train?.close?.();
    found.evaluation?.close?.();
  }
}

/** The sections that can be looked at although another has problems. */
function soundSections(values: Record<string, unknown>, keys: readonly string[]): Sections {
  const { shape } = runConfigSchema;
  const isSound = (section: string) => !keys.some((key) => key === section || key.startsWith(`${section}.`));
  const parsed = <T>(
    section: keyof Sections,
    schema: { safeParse(value: unknown): { success: boolean; data?: T } },
  ): T | undefined => (isSound(section) ? schema.safeParse(values[section]).data : undefined);
  return {
    model: parsed('model', shape.model),
    adapter: parsed('adapter', shape.adapter),
    data: parsed('data', shape.data),
    trainer: parsed('trainer', shape.trainer),
  };
}

interface Found {
  model?: MambaConfig;
  tokenizer?: Tokenizer;
  train?: TokenizedDataset;
  evaluation?: TokenizedDataset | null;
}

type Attempt = <T>(action: () => T | Promise<T>) => Promise<T | undefined>;

/** Looks at all that can be looked at, one independent of the other. */
async function examineSections({ model, adapter, data, trainer }: Sections, io: DryRunIo, attempt: Attempt) {
  const { onMessage } = io;
  const hub = { ...io.hubOptions, onMessage };
  const found: Found = {};
  if (trainer) {
    await attempt(() => inspectRunFolder(trainer.output_dir));
    await attempt(() => selectBackend(trainer.backend));
  }
  if (model) {
    const { path, revision } = model;
    found.tokenizer = await attempt(() => AutoTokenizer.fromPretrained(path, { ...hub, revision }));
    found.model = await attempt(async () =>
      readModelConfig(await resolveModelFolder(path, { ...hub, revision, select: selectConfigFile })),
    );
    if (found.model && existsSync(path)) await attempt(() => checkHeaders(path));
  }
  const { tokenizer } = found;
  if (data && tokenizer && found.model) {
    const options = exampleOptions(data, trainer?.seed ?? 0, found.model.vocabSize);
    const load = (source: RunConfig['data']['train']) =>
      attempt(async () =>
        tokenizeSources(await openSources(source, hub), tokenizer, {
          ...options,
          onMessage,
          onProgress: io.onTokenize,
        }),
      );
    found.train = await load(data.train);
    found.evaluation = data.eval && (await load(data.eval));
  }
  const modelConfig = found.model;
  if (adapter && modelConfig && tokenizer) {
    const config = { adapter, trainer: { seed: 0 } } as RunConfig;
    await attempt(() => planModel({ model: modelConfig, config, tokenizer, padTokenId: 0 }));
  }
  return found;
}

function checkHeaders(folder: string): void {
  const { config, source } = openCheckpoint(folder);
  try {
    checkTensorHeaders(config, source);
  } finally {
    source.close();
  }
}

interface Planned {
  config: RunConfig;
  rows: SequenceList;
  /** Where the run evaluates. */
  evalExamples: SequenceList | undefined;
  tokenizer: Tokenizer;
  model: MambaConfig;
}

async function describe({ config, rows, evalExamples, tokenizer, model }: Planned, io: DryRunIo): Promise<DryRun> {
  const { trainer: settings, data } = config;
  const backend = tf.getBackend();
  const counts = tokenCounts(rows);
  const plan = planOfRun({ trainExamples: rows, settings, shuffle: data.shuffle });
  const totals = totalsOf(plan, counts, lengthMultiple());
  const largest = { examples: rows, window: totals.largestWindow, evalExamples };
  const padding = padTokenId(tokenizer);
  const planned = await planModel({ model, config, tokenizer, padTokenId: padding, largest });
  const timed =
    io.timedSteps > 0
      ? await timeSteps({ config, tokenizer, rows, plan, padTokenId: padding, steps: io.timedSteps }, io)
      : null;
  return {
    backend,
    trainable: planned.trainable,
    all: planned.all,
    modules: sharesOf(planned),
    rows: rows.length,
    steps: plan.totalSteps,
    epochs: plan.epochAfter(plan.totalSteps),
    steps_per_epoch: plan.stepsPerEpoch,
    tokens_per_epoch: counts.reduce((sum, count) => sum + count, 0),
    tokens: totals.tokens,
    padding: 1 - totals.tokens / totals.positions,
    largest_batch: totals.largestBatch,
    memory: planned.memory ?? null,
    time: timed && {
      timed_steps: io.timedSteps,
      seconds_per_step: (timed.secondsPerPosition * totals.positions) / plan.totalSteps,
      seconds: timed.secondsPerPosition * totals.positions,
    },
  };
}

function sharesOf({ modules, trainable }: PlannedModel) {
  return modules.map(({ name, parameters }) => ({ name, parameters, share: parameters / trainable }));
}
