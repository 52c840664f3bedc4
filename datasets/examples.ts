// SPDX-License-Identifier: Apache-2.0
/** The examples of a run: read, tokenized, counted, and mixed when they come from several sources. */
import { createHash } from 'node:crypto';
import { UserError } from '../src/errors.ts';
import { hashFile } from '../src/files.ts';
import type { HubOptions } from '../src/hub.ts';
import type { Tokenizer } from '../src/tokenizer/tokenizer.ts';
import { type DatasetSource, openDatasetSource, type RecordSource } from './load.ts';
import { mixSequences } from './mixture.ts';
import { uncompressedName } from './readers/bytes.ts';
import type { Sequence } from './sequences.ts';
import { hashBatch, listOfBatches, type TokenBatch } from './token_batch.ts';
import { type CacheKey, cachePath, createCacheWriter, openTokenCache } from './token_cache.ts';
import {
  countLossTokens,
  emptyReport,
  type TokenizedDataset,
  type TokenizeOptions,
  tokenizeMessages,
} from './tokenize.ts';
import { type TokenizeProgress, type TokenizeSourceOptions, tokenizeSource } from './tokenize_source.ts';

/** A source in a run config, or several to mix. */
export interface MixedSource extends DatasetSource {
  sources?: readonly (DatasetSource & { weight: number })[] | null;
}

export interface LoadExamplesOptions extends TokenizeOptions {
  /** What a broken record does: end with its place (default), or be left out and counted in a message. */
  onBadRecord?: 'error' | 'skip';
  /** Folder of the token cache; default none: the tokens are in memory. */
  cacheDir?: string;
  /** Worker threads that tokenize; default one a processor. */
  threads?: number;
  /** Called now and then while a source is tokenized. */
  onProgress?(progress: TokenizeProgress): void;
  /** Decides how several sources mix. */
  seed: number;
  hub?: Omit<HubOptions, 'revision'>;
  /** Gets one line at a time for a person to read. */
  onMessage(line: string): void;
}

/**
 * Loads and tokenizes what a run config names, record by record.
 *
 * @throws UserError for a source that is not there, and with its place for a record that cannot be read or tokenized, unless
 *   `onBadRecord` is skip; when no record is left to learn from
 */
export async function loadExamples(
  source: MixedSource,
  tokenizer: Tokenizer,
  options: LoadExamplesOptions,
): Promise<TokenizedDataset> {
  const { onMessage } = options;
  return tokenizeSources(await openSources(source, { ...options.hub, onMessage }), tokenizer, options);
}

/** Sources whose files have been found. */
export type OpenSources = { source: RecordSource; weight: number }[];

/**
 * Finds the files of what a run config names, and fetches those of the Hub.
 * @throws UserError for a source that is not there
 */
export async function openSources(
  { sources, ...single }: MixedSource,
  hub: Omit<HubOptions, 'revision'> = {},
): Promise<OpenSources> {
  const opened: OpenSources = [];
  for (const { weight, ...source } of sources ?? [{ ...single, weight: 1 }]) {
    opened.push({ source: await openDatasetSource(source, hub), weight });
  }
  return opened;
}

/** Tokenizes open sources, record by record. Throws what {@link loadExamples} does. */
export async function tokenizeSources(
  sources: OpenSources,
  tokenizer: Tokenizer,
  options: LoadExamplesOptions,
): Promise<TokenizedDataset> {
  const parts: WeightedDataset[] = [];
  for (const { source, weight } of sources) {
    parts.push({ dataset: await loadSource(source, tokenizer, options), weight });
  }
  const [only, ...others] = parts;
  return only?.weight === 1 && others.length === 0 ? only.dataset : mixDatasets(parts, options.seed);
}

async function loadSource(
  source: RecordSource,
  tokenizer: Tokenizer,
  options: LoadExamplesOptions,
): Promise<TokenizedDataset> {
  const settings = { maxLength: 1024, onBadRecord: 'error' as const, ...withoutUndefined(options) };
  const { cacheDir, onMessage } = settings;
  const dataset =
    cacheDir === undefined
      ? await tokenizeInMemory(source, tokenizer, settings)
      : await tokenizeThroughCache(source, tokenizer, settings, cacheDir);
  for (const line of [...dataset.messages, ...tokenizeMessages(dataset.report)]) onMessage(line);
  return dataset;
}

type Settings = LoadExamplesOptions & TokenizeSourceOptions;
type SourceExamples = TokenizedDataset & { messages: string[] };

async function tokenizeInMemory(
  source: RecordSource,
  tokenizer: Tokenizer,
  settings: Settings,
): Promise<SourceExamples> {
  const batches: TokenBatch[] = [];
  const hash = createHash('sha256');
  const { report, messages } = await tokenizeSource(source, tokenizer, settings, (batch) => {
    batches.push(batch);
    hashBatch(hash, batch);
  });
  report.sha256 = hash.digest('hex');
  return { examples: listOfBatches(batches), report, messages };
}

async function tokenizeThroughCache(
  source: RecordSource,
  tokenizer: Tokenizer,
  settings: Settings,
  cacheDir: string,
): Promise<SourceExamples> {
  if (tokenizer.files.length === 0) {
    throw new UserError(
      'a token cache needs a tokenizer that was loaded from files, whose contents are part of its key',
    );
  }
  const key = await cacheKey(source, tokenizer, settings);
  const path = cachePath(cacheDir, key);
  const distrust = (reason: string) => settings.onMessage(`token cache ${path}: ${reason}; building it anew`);
  const cached = await openTokenCache(path, key, distrust);
  if (cached) return { ...cached, report: { ...cached.report, name: source.name } };

  const writer = createCacheWriter(path, key);
  try {
    await writer.finish(await tokenizeSource(source, tokenizer, settings, writer.add));
  } catch (error) {
    await writer.abandon();
    throw error;
  }
  const built = await openTokenCache(path, key, distrust);
  if (!built) throw new UserError(`${path}: the token cache is not what was just written; is the disk damaged?`);
  return built;
}

async function cacheKey(source: RecordSource, tokenizer: Tokenizer, settings: Settings): Promise<CacheKey> {
  const hashAll = (paths: readonly string[]) => Promise.all(paths.map(hashFile));
  const { maxLength, completionOnlyLoss, assistantTurns, chatTemplate, appendEos, vocabSize, onBadRecord } = settings;
  return {
    files: await hashAll(source.files.map(({ path }) => path)),
    tokenizer: await hashAll(tokenizer.files),
    options: {
      ...{ maxLength, completionOnlyLoss, assistantTurns, chatTemplate, appendEos, vocabSize, onBadRecord },
      ...source.readOptions,
      formats: source.files.map(({ path }) => uncompressedName(path).split('.').at(-1)),
    },
  };
}

/** The options without those that are there but undefined, which would hide defaults. */
function withoutUndefined<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
}

interface WeightedDataset {
  dataset: TokenizedDataset;
  weight: number;
}

function mixDatasets(parts: readonly WeightedDataset[], seed: number): TokenizedDataset {
  const examples = mixSequences(
    parts.map(({ dataset, weight }) => ({ examples: dataset.examples, weight })),
    seed,
  );
  const reports = parts.map(({ dataset }) => dataset.report);
  const close = () => {
    for (const { dataset } of parts) dataset.close?.();
  };
  const report = emptyReport(
    parts.map(({ dataset, weight }) => `${dataset.report.name}${weight === 1 ? '' : ` x ${weight}`}`).join(' + '),
    reports[0]?.maxLength ?? 0,
  );
  for (const key of ['records', 'truncated', 'skipped', 'promptMismatches'] as const) {
    report[key] = reports.reduce((sum, each) => sum + each[key], 0);
  }
  report.longest = Math.max(...reports.map(({ longest }) => longest));
  const hash = createHash('sha256').update(String(seed));
  for (const { dataset, weight } of parts) hash.update(`${dataset.report.sha256} ${weight}\n`);
  report.sha256 = hash.digest('hex');
  for (let index = 0; index < examples.length; index++) {
    const { inputIds, labels } = examples.at(index) as Sequence;
    report.tokens += inputIds.length;
    report.lossTokens += countLossTokens(labels);
  }
  return { examples, report, close };
}
