// SPDX-License-Identifier: Apache-2.0
/** Datasets to token ids and labels: cut to length, checked against the vocabulary, counted. */
import { createHash, type Hash } from 'node:crypto';
import { UserError } from '../src/errors.ts';
import type { Tokenizer } from '../src/tokenizer/tokenizer.ts';
import { type EncodeOptions, type Example, recordEncoder } from './encode.ts';
import { IGNORE_INDEX, recordError } from './fields.ts';
import type { Dataset } from './load.ts';
import type { DataRecord } from './records.ts';
import type { Sequence, SequenceList } from './sequences.ts';

export interface TokenizeOptions extends EncodeOptions {
  /** Most tokens of an example, at least 2; the rest is cut off. Default 1024. */
  maxLength?: number;
  /** Rows of the model's embedding: every id must be below. Default `tokenizer.vocabSize`. */
  vocabSize?: number;
}

export interface TokenizedDataset {
  /** In the order of the records, without the skipped ones. */
  examples: SequenceList;
  report: TokenizeReport;
  /** Closes the files that the examples are read from, where there are any. */
  close?(): void;
}

export interface TokenizeReport {
  /** What the messages call the dataset. */
  name: string;
  records: number;
  maxLength: number;
  /** Records that were longer than `maxLength` and cut. */
  truncated: number;
  /** Tokens of the longest record before cutting. */
  longest: number;
  /** Records left out because no position of theirs carries loss. */
  skipped: number;
  /** Records masked although the ids of a prompt are not the first ids of the whole: a mask's end is off by a token or so. */
  promptMismatches: number;
  /** Tokens of all examples. */
  tokens: number;
  /** Positions of all examples that carry loss. */
  lossTokens: number;
  /** Over ids and labels of all examples, in their order. */
  sha256: string;
}

/** A record as it trains. */
export interface PreparedRecord {
  /** Cut to `maxLength`. */
  example: Example;
  /** Tokens before cutting. */
  length: number;
  /** Positions of the example that carry loss; without one it is left out. */
  lossTokens: number;
  promptMismatch: boolean;
}

/**
 * Prepares one record after the other.
 *
 * @throws UserError when `appendEos` meets a tokenizer without end-of-text token; from the returned function, with the record's
 *   place, for a record whose ids the model does not have, that `completionOnlyLoss: true` cannot mask or a chat template refuses
 */
export function recordPreparer(
  tokenizer: Tokenizer,
  options: TokenizeOptions = {},
): (record: DataRecord) => PreparedRecord {
  const { maxLength = DEFAULT_MAX_LENGTH, vocabSize = tokenizer.vocabSize, ...encoding } = options;
  const encode = recordEncoder(tokenizer, encoding);
  return (record) => {
    const { example: whole, promptMismatch } = encode(record);
    checkIds(whole, record, vocabSize);
    const example = truncate(whole, maxLength);
    return { example, length: whole.inputIds.length, lossTokens: countLossTokens(example.labels), promptMismatch };
  };
}

/**
 * Tokenizes a dataset.
 *
 * @throws UserError what `recordPreparer` does, and when no record is left to learn from
 */
export function tokenizeDataset(
  dataset: Dataset,
  tokenizer: Tokenizer,
  options: TokenizeOptions = {},
): TokenizedDataset & { examples: Example[] } {
  const prepare = recordPreparer(tokenizer, options);
  const examples: Example[] = [];
  const report = emptyReport(dataset.name, options.maxLength ?? DEFAULT_MAX_LENGTH);
  const hash = createHash('sha256');
  for (const record of dataset.records) {
    const prepared = prepare(record);
    count(report, prepared);
    if (prepared.lossTokens === 0) continue;
    examples.push(prepared.example);
    hashSequence(hash, prepared.example);
  }
  report.sha256 = hash.digest('hex');
  if (examples.length === 0) throw nothingToLearn(report);
  return { examples, report };
}

const DEFAULT_MAX_LENGTH = 1024;

export function emptyReport(name: string, maxLength: number): TokenizeReport {
  const counts = { records: 0, truncated: 0, longest: 0, skipped: 0, promptMismatches: 0, tokens: 0, lossTokens: 0 };
  return { name, maxLength, ...counts, sha256: '' };
}

/** Counts a record in. */
export function count(report: TokenizeReport, { example, length, lossTokens, promptMismatch }: PreparedRecord): void {
  report.records += 1;
  report.longest = Math.max(report.longest, length);
  if (length > report.maxLength) report.truncated += 1;
  if (promptMismatch) report.promptMismatches += 1;
  if (lossTokens === 0) {
    report.skipped += 1;
    return;
  }
  report.tokens += example.inputIds.length;
  report.lossTokens += lossTokens;
}

export function hashSequence(hash: Hash, { inputIds, labels }: Sequence): void {
  hash.update(Int32Array.of(inputIds.length)).update(inputIds).update(labels);
}

export function nothingToLearn({ name, records, maxLength }: TokenizeReport): UserError {
  return new UserError(
    `${name}: none of ${records} records leaves a token to learn from; check max_length (${maxLength}) and completion_only_loss`,
  );
}

/** What a person should know of a tokenization, one line each; empty when all went in whole. */
export function tokenizeMessages(report: TokenizeReport): string[] {
  const { name, records, maxLength, truncated, longest, skipped, promptMismatches } = report;
  const messages: string[] = [];
  if (truncated > 0) {
    messages.push(
      `${name}: ${truncated} of ${records} records were longer than max_length ${maxLength} and were cut (the longest has ${longest} tokens)`,
    );
  }
  if (skipped > 0) {
    messages.push(`${name}: ${skipped} of ${records} records were left out: no token of theirs carries loss`);
  }
  if (promptMismatches > 0) {
    messages.push(
      `${name}: in ${promptMismatches} of ${records} records the tokens of a prompt are not the first tokens of prompt and answer, so the loss mask may be off by a token; begin completions with a space or end prompts with a line break`,
    );
  }
  return messages;
}

function checkIds(example: Example, record: DataRecord, vocabSize: number): void {
  const { inputIds, labels } = example;
  const position = inputIds.findIndex((id, at) => id >= vocabSize || (labels[at] ?? 0) >= vocabSize);
  if (position === -1) return;
  const id = Math.max(inputIds[position] ?? 0, labels[position] ?? 0);
  throw recordError(
    record,
    `token ${position} has id ${id}; the model's vocabulary has ${vocabSize} ids, from 0. Is this the model's own tokenizer?`,
  );
}

function truncate(example: Example, maxLength: number): Example {
  if (example.inputIds.length <= maxLength) return example;
  return {
    inputIds: example.inputIds.slice(0, maxLength),
    labels: example.labels.slice(0, maxLength),
    promptLength: Math.min(example.promptLength, maxLength),
  };
}

/** Positions that carry loss: labels after the first, since position t predicts label t + 1. */
export function countLossTokens(labels: Int32Array): number {
  let count = 0;
  for (let position = 1; position < labels.length; position++) {
    if (labels[position] !== IGNORE_INDEX) count += 1;
  }
  return count;
}
