// SPDX-License-Identifier: Apache-2.0
/** Tokenizes a source as a stream: chunks of records go through the pool, a bounded number at a time. */
import { UserError } from '../src/errors.ts';
import type { Tokenizer } from '../src/tokenizer/tokenizer.ts';
import { createBadRecords, emptyDataset, type RecordSource, readRecords } from './load.ts';
import type { DataRecord } from './records.ts';
import type { TokenBatch, TokenizedRecords } from './token_batch.ts';
import { emptyReport, nothingToLearn, type TokenizeOptions, type TokenizeReport } from './tokenize.ts';
import { createTokenizePool } from './tokenize_pool.ts';

export interface TokenizeProgress {
  /** What messages call the dataset. */
  name: string;
  records: number;
  tokens: number;
  /** Of the files' bytes, 0 to 1. */
  fraction: number;
  seconds: number;
}

export interface TokenizeSourceOptions extends TokenizeOptions {
  maxLength: number;
  onBadRecord: 'error' | 'skip';
  /** Worker threads; default one a processor. */
  threads?: number;
  onProgress?(progress: TokenizeProgress): void;
}

export interface TokenizedSource {
  /** Without the hash of the examples. */
  report: TokenizeReport;
  /** What is to be told of bad records. */
  messages: string[];
}

const CHUNK_RECORDS = 256;
const CHUNK_CHARACTERS = 1 << 20;

/**
 * Tokenizes all records, and gives their batches to `consume` in the order of the records.
 *
 * @throws UserError for a record that cannot be read or tokenized, unless bad records are skipped; when none is left to learn from
 */
export async function tokenizeSource(
  source: RecordSource,
  tokenizer: Tokenizer,
  options: TokenizeSourceOptions,
  consume: (batch: TokenBatch) => void,
): Promise<TokenizedSource> {
  const started = performance.now();
  const bad = createBadRecords(source.name, options.onBadRecord);
  const report = emptyReport(source.name, options.maxLength);
  const pool = createTokenizePool(tokenizer, options, options.threads);
  const running: Promise<TokenizedRecords>[] = [];
  let fraction = 0;

  const finishOldest = async () => {
    const oldest = running.shift();
    if (oldest === undefined) return;
    const done = await oldest;
    for (const message of done.faults) bad.add(new UserError(message));
    addReport(report, done.report);
    if (done.batch.offsets.length > 1) consume(done.batch);
    const { records, tokens } = report;
    options.onProgress?.({
      name: source.name,
      records,
      tokens,
      fraction,
      seconds: (performance.now() - started) / 1000,
    });
  };
  try {
    for await (const chunk of chunksOf(source, bad.add, (share) => (fraction = share))) {
      const run = pool.run(chunk);
      // Whoever waits for it sees the failure; until then it is not unhandled.
      run.catch(() => {});
      running.push(run);
      if (running.length >= pool.capacity) await finishOldest();
    }
    while (running.length > 0) await finishOldest();
  } finally {
    await pool.close();
  }
  if (report.records === 0) throw emptyDataset(source.name);
  if (report.records === report.skipped) throw nothingToLearn(report);
  return { report, messages: bad.messages() };
}

/** The good records, in chunks of about one size. */
async function* chunksOf(
  source: RecordSource,
  onFault: (fault: UserError) => void,
  onProgress: (fraction: number) => void,
): AsyncGenerator<DataRecord[]> {
  let chunk: DataRecord[] = [];
  let characters = 0;
  for await (const read of readRecords(source, onProgress)) {
    if ('fault' in read) {
      onFault(read.fault);
      continue;
    }
    chunk.push(read.record);
    characters += sizeOf(read.record);
    if (chunk.length < CHUNK_RECORDS && characters < CHUNK_CHARACTERS) continue;
    yield chunk;
    chunk = [];
    characters = 0;
  }
  if (chunk.length > 0) yield chunk;
}

function sizeOf(record: DataRecord): number {
  switch (record.kind) {
    case 'text':
      return record.text.length;
    case 'prompt-completion':
      return record.prompt.length + record.completion.length;
    case 'instruction':
      return record.instruction.length + record.input.length + record.output.length;
    case 'messages':
      return record.messages.reduce((sum, { content }) => sum + String(content).length, 0);
    case 'input-ids':
      return 4 * record.inputIds.length;
  }
}

function addReport(total: TokenizeReport, part: TokenizeReport): void {
  for (const key of ['records', 'truncated', 'skipped', 'promptMismatches', 'tokens', 'lossTokens'] as const) {
    total[key] += part[key];
  }
  total.longest = Math.max(total.longest, part.longest);
}
