// SPDX-License-Identifier: Apache-2.0
/**
 * Records to token ids and labels, as trl's SFTTrainer does it: a prompt and its completion are tokenized as one text, and
 * the prompt's share of the ids is as long as the prompt tokenized alone.
 */
import { UserError } from '../src/errors.ts';
import type { Tokenizer } from '../src/tokenizer/tokenizer.ts';
import type { Dataset } from './load.ts';
import { type DataRecord, IGNORE_INDEX } from './records.ts';

/** One training sequence. */
export interface Example {
  inputIds: Int32Array;
  /** As long as `inputIds` and not shifted: the id, or -100 where there is no loss. */
  labels: Int32Array;
  /** Ids that belong to the prompt; 0 for records without one. */
  promptLength: number;
}

export interface TokenizeOptions {
  /** Most tokens of an example, at least 2; the rest is cut off. Default 1024. */
  maxLength?: number;
  /**
   * Whether the prompt carries no loss. Default null: it carries none in records of prompt and completion. It does not
   * touch records that bring their own labels.
   */
  completionOnlyLoss?: boolean | null;
  /** End each text or completion with the tokenizer's end-of-text id, unless it already does. Default true. */
  appendEos?: boolean;
  /** Rows of the model's embedding: every id must be below. Default `tokenizer.vocabSize`. */
  vocabSize?: number;
}

export interface TokenizedDataset {
  /** In the order of the records, without the skipped ones. */
  examples: Example[];
  report: TokenizeReport;
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
  /** Records masked although the prompt's ids are not the first ids of the whole: the mask's end is off by a token or so. */
  promptMismatches: number;
  /** Tokens of all examples. */
  tokens: number;
  /** Positions of all examples that carry loss. */
  lossTokens: number;
}

/**
 * Tokenizes a dataset.
 *
 * @throws UserError, with `file:line`, for a record whose ids the model does not have, or that `completionOnlyLoss: true`
 *   cannot mask; when `appendEos` meets a tokenizer without end-of-text token; when no record is left to learn from.
 */
export function tokenizeDataset(
  dataset: Dataset,
  tokenizer: Tokenizer,
  options: TokenizeOptions = {},
): TokenizedDataset {
  const { maxLength = 1024, completionOnlyLoss = null, appendEos = true, vocabSize = tokenizer.vocabSize } = options;
  const eosTokenId = appendEos ? endOfText(tokenizer) : undefined;

  const examples: Example[] = [];
  const report: TokenizeReport = {
    name: dataset.name,
    records: dataset.records.length,
    maxLength,
    truncated: 0,
    longest: 0,
    skipped: 0,
    promptMismatches: 0,
    tokens: 0,
    lossTokens: 0,
  };
  for (const record of dataset.records) {
    const { example, promptMismatch } = tokenizeRecord(record, tokenizer, eosTokenId, completionOnlyLoss);
    checkIds(example, record, vocabSize);
    const length = example.inputIds.length;
    report.longest = Math.max(report.longest, length);
    if (length > maxLength) report.truncated += 1;
    if (promptMismatch) report.promptMismatches += 1;

    const cut = truncate(example, maxLength);
    const lossTokens = countLossTokens(cut.labels);
    if (lossTokens === 0) {
      report.skipped += 1;
      continue;
    }
    examples.push(cut);
    report.tokens += cut.inputIds.length;
    report.lossTokens += lossTokens;
  }
  if (examples.length === 0) {
    throw new UserError(
      `${dataset.name}: none of ${report.records} records leaves a token to learn from; check max_length (${maxLength}) and completion_only_loss`,
    );
  }
  return { examples, report };
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
      `${name}: in ${promptMismatches} of ${records} records the prompt's tokens are not the first tokens of prompt + completion, so the loss mask may be off by a token; begin completions with a space or end prompts with a line break`,
    );
  }
  return messages;
}

function endOfText(tokenizer: Tokenizer): number {
  if (tokenizer.eosTokenId === undefined) {
    throw new UserError(
      'append_eos is true, but the tokenizer has no eos_token; give it one, or set append_eos: false',
    );
  }
  return tokenizer.eosTokenId;
}

function tokenizeRecord(
  record: DataRecord,
  tokenizer: Tokenizer,
  eosTokenId: number | undefined,
  completionOnlyLoss: boolean | null,
): { example: Example; promptMismatch: boolean } {
  if (record.kind === 'prompt-completion') {
    const masked = completionOnlyLoss ?? true;
    const prompt = tokenizer.encode(record.prompt);
    const whole = withEos(tokenizer.encode(record.prompt + record.completion), eosTokenId);
    const promptLength = Math.min(prompt.length, whole.length);
    const inputIds = Int32Array.from(whole);
    const labels = Int32Array.from(inputIds);
    if (masked) labels.fill(IGNORE_INDEX, 0, promptLength);
    const promptMismatch = masked && prompt.some((id, position) => whole[position] !== id);
    return { example: { inputIds, labels, promptLength }, promptMismatch };
  }
  if (completionOnlyLoss === true && !(record.kind === 'input-ids' && record.labels !== undefined)) {
    const found = record.kind === 'text' ? 'a text' : 'input_ids without labels';
    throw new UserError(
      `${record.file}:${record.line}: completion_only_loss is true, but the record is ${found}; expected prompt and completion`,
    );
  }
  if (record.kind === 'input-ids') {
    const { inputIds, labels = Int32Array.from(inputIds) } = record;
    return { example: { inputIds, labels, promptLength: 0 }, promptMismatch: false };
  }
  const inputIds = Int32Array.from(withEos(tokenizer.encode(record.text), eosTokenId));
  return { example: { inputIds, labels: Int32Array.from(inputIds), promptLength: 0 }, promptMismatch: false };
}

function withEos(ids: number[], eosTokenId: number | undefined): number[] {
  return eosTokenId === undefined || ids.at(-1) === eosTokenId ? ids : [...ids, eosTokenId];
}

function checkIds(example: Example, record: DataRecord, vocabSize: number): void {
  const { inputIds, labels } = example;
  const position = inputIds.findIndex((id, at) => id >= vocabSize || (labels[at] ?? 0) >= vocabSize);
  if (position === -1) return;
  const id = Math.max(inputIds[position] ?? 0, labels[position] ?? 0);
  throw new UserError(
    `${record.file}:${record.line}: token ${position} has id ${id}; the model's vocabulary has ${vocabSize} ids, from 0. Is this the model's own tokenizer?`,
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
