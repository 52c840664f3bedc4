// SPDX-License-Identifier: Apache-2.0
/** What every kind of evaluation job is made of: units that are scored, and metrics of their sums. */
import type { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts';

export interface JobMetric {
  name: string;
  /** Whether more is better. */
  higherIsBetter: boolean;
  /** The metric of any set of units, from the sums of their statistics. */
  of(sums: Float64Array): number;
}

export interface RunOptions {
  batchSize: number;
  window: number;
  signal?: AbortSignal;
  onProgress?(done: number, total: number): void;
}

/** A job whose data are read and tokenized. */
export interface PreparedJob {
  name: string;
  type: string;
  /** What messages call its data. */
  data: string;
  /** Records or items. */
  records: number;
  /** Tokens that carry loss; of a perplexity job. */
  tokens?: number;
  metrics: readonly JobMetric[];
  /**
   * Scores a model: one row of statistics for each unit that a bootstrap may draw, the same units in the same order for every model.
   * @throws the signal's reason when it is aborted
   */
  run(model: MambaForCausalLM, options: RunOptions): Promise<Float64Array[]>;
}

/** What preparing a job needs. */
export interface JobContext {
  tokenizer: Tokenizer;
  /** Rows of the models' embeddings. */
  vocabSize: number;
  /** Decides how mixed sources mix. */
  seed: number;
  onMessage(line: string): void;
}

/** The mean of a column whose rows are counted in column 0. */
export function meanOf(column: number): (sums: Float64Array) => number {
  return (sums) => (sums[column] as number) / (sums[0] as number);
}
