// SPDX-License-Identifier: Apache-2.0
/** The quickstart: measures the base model, trains, measures again, and shows both side by side. */
import { join, relative } from 'node:path';
import { openDatasetSource, readRecords } from '../../datasets/index.ts';
import { runTraining } from '../../trainer/index.ts';
import { packageRoot } from '../backends/addon.ts';
import { type BackendName, selectBackend } from '../backends/select.ts';
import { loadConfig } from '../config/load.ts';
import type { RunConfig } from '../config/schema.ts';
import { ConfigError } from '../errors.ts';
import type { SamplingOptions } from '../generation/index.ts';
import { formatDuration, formatNumber } from '../logging/format.ts';
import { type MessageStream, stylerFor } from '../logging/logger.ts';
import { createProgress } from '../logging/progress.ts';
import type { CliContext } from './context.ts';
import { evaluateWith } from './evaluate_with.ts';
import { generateWith } from './generate_with.ts';
import { interruptible } from './run_command.ts';
import { sideBySide } from './side_by_side.ts';

const CONFIG = 'configs/quickstart.yaml';
/** Of the held-out records; written from by both models. */
const PROMPTS = ['religion, n.', 'economy, n.', 'admiration, n.'];
const SAMPLING: SamplingOptions = { doSample: true, temperature: 0.7, seed: 1 };
const MAX_NEW_TOKENS = 60;

/** What a backend without our kernels does of it, so that it ends within minutes. */
interface Shortening {
  steps: number;
  /** Tokens of a record. */
  maxLength: number;
  /** Held-out records that the loss is measured on. */
  evalRecords: number;
}
const SHORTENINGS: Partial<Record<BackendName, Shortening>> = {
  wasm: { steps: 15, maxLength: 64, evalRecords: 16 },
  cpu: { steps: 2, maxLength: 32, evalRecords: 8 },
};

/** What one model does on what no training saw. */
export interface Measurement {
  loss: number;
  perplexity: number;
  completions: string[];
}

/** What --json shows. */
export interface QuickstartReport {
  adapterFolder: string;
  /** Training steps. */
  steps: number;
  prompts: readonly string[];
  before: Measurement;
  after: Measurement;
  /** Of everything. */
  seconds: number;
}

/**
 * @param overrides `key=value` as given to --set
 * @throws what training, evaluation and generation throw
 */
export async function runQuickstart(context: CliContext, overrides: readonly string[]): Promise<QuickstartReport> {
  const { logger, print } = context;
  const startedAt = performance.now();
  const { config, evalRecords } = await planRun(context, overrides);
  await checkPrompts(config);

  logger.info('measuring the base model on the held-out records …');
  const before = await measure(context, { config, evalRecords });
  logger.info(`before training: test loss ${before.loss.toFixed(3)}`);
  const { onMessage, progress } = { onMessage: logger.info, progress: createProgress(context.io.stderr) };
  const { adapterFolder, steps } = await runTraining(config, { onMessage, progress, handleSignals: true });
  const after = await measure(context, { config, evalRecords }, adapterFolder);

  const seconds = (performance.now() - startedAt) / 1000;
  const report = { adapterFolder, steps, prompts: PROMPTS, before, after, seconds };
  print(describeReport(report, context.io.stdout, nextCommands(adapterFolder, config.trainer.output_dir)));
  return report;
}

function describeReport(report: QuickstartReport, stdout: MessageStream, next: readonly string[]): string {
  const { before, after, adapterFolder, steps, seconds } = report;
  const style = stylerFor(stdout);
  const width = Math.min(stdout.columns ?? 100, 120);
  const rows = PROMPTS.map((heading, row) => ({
    heading,
    left: before.completions[row] ?? '',
    right: after.completions[row] ?? '',
  }));
  const table = sideBySide(['before', `after ${steps} ${steps === 1 ? 'step' : 'steps'}`], rows, width, (text) =>
    style('bold', text),
  );
  const perplexities = `${formatNumber(before.perplexity)} → ${formatNumber(after.perplexity)}`;
  return [
    '',
    `Held-out prompts, continued at temperature ${SAMPLING.temperature}:`,
    '',
    ...table,
    '',
    `test loss   ${before.loss.toFixed(3)} → ${after.loss.toFixed(3)}   (perplexity ${perplexities})`,
    `adapter     ${adapterFolder}`,
    `time        ${formatDuration(seconds)}`,
    '',
    'Next:',
    ...next.map((line) => `  ${line}`),
    '',
  ].join('\n');
}

interface Plan {
  config: RunConfig;
  /** Undefined is all. */
  evalRecords?: number;
}

/** The config, shortened where the backend is slow and the user has not said how many steps there are to be. */
async function planRun({ logger }: CliContext, overrides: readonly string[]): Promise<Plan> {
  const { config } = loadConfig(join(ownFolder(), CONFIG), [...ownInputs(), ...overrides]);
  const { data, trainer } = config;
  const { name, message } = await selectBackend(trainer.backend);
  logger.info(message);
  const short = SHORTENINGS[name];
  if (short === undefined || trainer.max_steps !== -1) return { config };
  const { steps, maxLength, evalRecords } = short;
  logger.warn(
    `THIS IS A SHORTENED QUICKSTART. The ${name} backend has none of our kernels and is slow, so training stops after ${steps} steps, ` +
      `records are cut to ${maxLength} tokens, and the test loss is that of ${evalRecords} records: do not expect style from it. ` +
      'For the whole one, which takes about a minute, install a C++ compiler, run `npm run build:native`, and start again. ' +
      '`npx mambatune doctor` says more.',
  );
  return {
    config: {
      ...config,
      data: { ...data, max_length: maxLength },
      trainer: { ...trainer, max_steps: steps, logging_steps: 1, eval_strategy: 'no' },
    },
    evalRecords,
  };
}

/** The package's folder as seen from the current directory; '' when they are the same. */
function ownFolder(): string {
  return relative(process.cwd(), packageRoot());
}

/** The config's inputs are part of the package, wherever the command is run. */
function ownInputs(): string[] {
  const folder = ownFolder();
  if (folder === '') return [];
  const inputs = {
    'model.path': 'models/mamba-5m',
    'data.train.path': 'datasets/quickstart/train.jsonl',
    'data.eval.path': 'datasets/quickstart/test.jsonl',
  };
  return Object.entries(inputs).map(([key, path]) => `${key}=${JSON.stringify(join(folder, path))}`);
}

async function checkPrompts({ data }: RunConfig): Promise<void> {
  if (data.eval === null) throw new ConfigError('the quickstart needs data.eval, the held-out records; leave it set.');
  const source = await openDatasetSource(data.eval);
  const missing = new Set<string>(PROMPTS);
  for await (const read of readRecords(source)) {
    if ('record' in read && read.record.kind === 'prompt-completion') missing.delete(read.record.prompt);
  }
  if (missing.size > 0)
    throw new ConfigError(`${source.name}: found no record with the prompt ${[...missing].join(' or ')}.`);
}

async function measure(context: CliContext, { config, evalRecords }: Plan, adapter?: string): Promise<Measurement> {
  const { data, model, trainer } = config;
  if (data.eval === null) throw new ConfigError('the quickstart needs data.eval.');
  const evalConfig = { ...config, data: { ...data, eval: data.eval } };
  const quiet: CliContext = { ...context, print: () => {}, logger: { ...context.logger, info: () => {} } };
  return interruptible(async (signal) => {
    const request = { config: evalConfig, adapter, maxRecords: evalRecords, signal };
    const { loss, perplexity } = await evaluateWith(request, quiet.logger.info);
    const { results } = await generateWith(quiet, {
      model: model.path,
      revision: model.revision,
      adapter,
      backend: trainer.backend,
      prompts: PROMPTS,
      chat: null,
      options: { maxNewTokens: MAX_NEW_TOKENS, ...SAMPLING },
      live: false,
      signal,
    });
    return { loss, perplexity, completions: results.map(({ completion }) => completion.trim()) };
  });
}

function nextCommands(adapter: string, outputDir: string): string[] {
  return [
    `npx mambatune generate --adapter ${adapter} --prompt "politician, n." --temperature 0.7 --stream`,
    `npx mambatune eval ${join(ownFolder(), CONFIG)} --adapter ${adapter}`,
    `npx mambatune merge --adapter ${adapter} --output ${outputDir}/merged`,
  ];
}
