// SPDX-License-Identifier: Apache-2.0
/** Tokenized records in bulk: what worker threads give back and the token cache stores. */
import type { Hash } from 'node:crypto';
import { UserError } from '../src/errors.ts';
import type { DataRecord } from './records.ts';
import type { Sequence, SequenceList } from './sequences.ts';
import { count, emptyReport, hashSequence, type PreparedRecord, type TokenizeReport } from './tokenize.ts';

/** Sequences, one behind the other. */
export interface TokenBatch {
  /** Of all sequences. */
  inputIds: Int32Array;
  labels: Int32Array;
  /** Where each sequence begins in `inputIds`, and their length: one more than there are sequences. */
  offsets: Int32Array;
}

/** What became of a number of records. */
export interface TokenizedRecords {
  batch: TokenBatch;
  /** Counts of these records alone. */
  report: TokenizeReport;
  /** Messages of the records that could not be tokenized. */
  faults: string[];
}

/** Tokenizes records one by one; those that carry no loss are counted and left out, those with a fault come as faults. */
export function tokenizeRecords(
  records: readonly DataRecord[],
  prepare: (record: DataRecord) => PreparedRecord,
  maxLength: number,
): TokenizedRecords {
  const report = emptyReport('', maxLength);
  const faults: string[] = [];
  const sequences: Sequence[] = [];
  for (const record of records) {
    try {
      const prepared = prepare(record);
      count(report, prepared);
      if (prepared.lossTokens > 0) sequences.push(prepared.example);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      faults.push(error.message);
    }
  }
  return { batch: joinSequences(sequences), report, faults };
}

function joinSequences(sequences: readonly Sequence[]): TokenBatch {
  const offsets = new Int32Array(sequences.length + 1);
  sequences.forEach(({ inputIds }, index) => {
    offsets[index + 1] = (offsets[index] as number) + inputIds.length;
  });
  const total = offsets[sequences.length] as number;
  const batch = { inputIds: new Int32Array(total), labels: new Int32Array(total), offsets };
  sequences.forEach(({ inputIds, labels }, index) => {
    batch.inputIds.set(inputIds, offsets[index]);
    batch.labels.set(labels, offsets[index]);
  });
  return batch;
}

/** One sequence of a batch, as views. */
export function sequenceOf({ inputIds, labels, offsets }: TokenBatch, index: number): Sequence {
  const [start, end] = [offsets[index], offsets[index + 1]];
  return { inputIds: inputIds.subarray(start, end), labels: labels.subarray(start, end) };
}

/** Adds the sequences of a batch to a hash of examples. */
export function hashBatch(hash: Hash, batch: TokenBatch): void {
  for (let index = 0; index + 1 < batch.offsets.length; index++) hashSequence(hash, sequenceOf(batch, index));
}

/** Batches in memory as one list. */
export function listOfBatches(batches: readonly TokenBatch[]): SequenceList {
  const index = batchIndex(batches.map(({ offsets }) => offsets));
  const at = (position: number) => {
    const found = index.find(position);
    const batch = found && batches[found.batch];
    return batch && sequenceOf(batch, found.within);
  };
  return { length: index.length, at, tokenCounts: index.tokenCounts };
}

export interface BatchIndex {
  length: number;
  tokenCounts: Int32Array;
  /** The batch of a sequence, and its index in it; undefined behind the last. */
  find(position: number): { batch: number; within: number } | undefined;
}

/** @param offsets of each batch, as `TokenBatch` has them */
export function batchIndex(offsets: readonly Int32Array[]): BatchIndex {
  const starts = new Int32Array(offsets.length + 1);
  offsets.forEach((each, batch) => {
    starts[batch + 1] = (starts[batch] as number) + each.length - 1;
  });
  const length = starts[offsets.length] as number;
  const tokenCounts = new Int32Array(length);
  offsets.forEach((each, batch) => {
    for (let within = 0; within + 1 < each.length; within++) {
      tokenCounts[(starts[batch] as number) + within] = (each[within + 1] as number) - (each[within] as number);
    }
  });
  const find = (position: number) => {
    if (!(position >= 0 && position < length)) return undefined;
    let [low, high] = [0, offsets.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((starts[middle] as number) <= position) low = middle;
      else high = middle - 1;
    }
    return { batch: low, within: position - (starts[low] as number) };
  };
  return { length, tokenCounts, find };
}
