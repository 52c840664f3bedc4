// SPDX-License-Identifier: Apache-2.0
/** Tokenizes chunks of records in worker threads, and gives the results in the order of the chunks. */
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { Tokenizer } from '../src/tokenizer/tokenizer.ts';
import type { DataRecord } from './records.ts';
import { type TokenizedRecords, tokenizeRecords } from './token_batch.ts';
import { recordPreparer, type TokenizeOptions } from './tokenize.ts';
import type { WorkerSetup } from './tokenize_worker.ts';

export interface TokenizePool {
  /** Tokenizes the chunk as soon as a thread is free. */
  run(records: DataRecord[]): Promise<TokenizedRecords>;
  /** Chunks that may wait or be at work at once without a thread running idle. */
  readonly capacity: number;
  close(): Promise<void>;
}

/** Chunks that are tokenized here before threads are started: a small dataset is done by then. */
const CHUNKS_BEFORE_THREADS = 4;

/**
 * A pool of `threads` worker threads, started when a dataset turns out to be worth it. A tokenizer that was made from no files
 * cannot be given to threads, and works here.
 *
 * @param threads 1 works here alone
 */
export function createTokenizePool(
  tokenizer: Tokenizer,
  options: TokenizeOptions & { maxLength: number },
  threads: number = availableParallelism(),
): TokenizePool {
  const [file] = tokenizer.files;
  const prepare = recordPreparer(tokenizer, options);
  const isParallel = file !== undefined && threads > 1;
  let chunks = 0;
  let workers: PoolWorker[] = [];

  const start = (folder: string) => {
    workers = Array.from({ length: threads }, () => createWorker({ tokenizerFolder: folder, options: plain(options) }));
  };
  return {
    capacity: isParallel ? 3 * threads : 1,
    run: async (records) => {
      chunks += 1;
      if (!isParallel || chunks <= CHUNKS_BEFORE_THREADS) return tokenizeRecords(records, prepare, options.maxLength);
      if (workers.length === 0) start(dirname(file));
      const [free] = workers.toSorted((a, b) => a.waiting() - b.waiting());
      return (free as PoolWorker).run(records);
    },
    close: async () => {
      await Promise.all(workers.map((worker) => worker.close()));
    },
  };
}

/** The options that are the tokenizer's alone: what else a caller's object holds cannot be sent to a thread. */
function plain(options: TokenizeOptions & { maxLength: number }): WorkerSetup['options'] {
  const { maxLength, vocabSize, completionOnlyLoss, assistantTurns, chatTemplate, appendEos } = options;
  return { maxLength, vocabSize, completionOnlyLoss, assistantTurns, chatTemplate, appendEos };
}

interface PoolWorker {
  run(records: DataRecord[]): Promise<TokenizedRecords>;
  waiting(): number;
  close(): Promise<unknown>;
}

function createWorker(setup: WorkerSetup): PoolWorker {
  // Threads run the built module, also when this one runs from its source.
  const root = dirname(createRequire(import.meta.url).resolve('mambatune/package.json'));
  const worker = new Worker(join(root, 'dist', 'datasets', 'tokenize_worker.js'), { workerData: setup });
  const pending: { resolve(result: TokenizedRecords): void; reject(error: unknown): void }[] = [];
  let failure: unknown;
  worker.on('message', (result: TokenizedRecords) => pending.shift()?.resolve(result));
  worker.on('error', (error) => {
    failure = error;
    for (const { reject } of pending.splice(0)) reject(error);
  });
  return {
    run: (records) =>
      new Promise((resolve, reject) => {
        if (failure !== undefined) {
          reject(failure);
          return;
        }
        pending.push({ resolve, reject });
        worker.postMessage(records);
      }),
    waiting: () => pending.length,
    close: () => worker.terminate(),
  };
}
