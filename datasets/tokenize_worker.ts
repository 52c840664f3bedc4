// SPDX-License-Identifier: Apache-2.0
/** A worker thread that tokenizes the records it is sent. */
import { parentPort, workerData } from 'node:worker_threads';
import { loadTokenizer } from '../src/tokenizer/tokenizer.ts';
import type { DataRecord } from './records.ts';
import { tokenizeRecords } from './token_batch.ts';
import { recordPreparer, type TokenizeOptions } from './tokenize.ts';

export interface WorkerSetup {
  tokenizerFolder: string;
  options: TokenizeOptions & { maxLength: number };
}

const { tokenizerFolder, options } = workerData as WorkerSetup;
const prepare = recordPreparer(loadTokenizer(tokenizerFolder), options);

parentPort?.on('message', (records: DataRecord[]) => {
  const result = tokenizeRecords(records, prepare, options.maxLength);
  const { inputIds, labels, offsets } = result.batch;
  parentPort?.postMessage(result, [inputIds.buffer, labels.buffer, offsets.buffer] as ArrayBuffer[]);
});
