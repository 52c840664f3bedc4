// SPDX-License-Identifier: Apache-2.0
/** What training reads: sequences of tokens by index, in memory or not. */

/** One row of a batch. */
export interface Sequence {
  inputIds: Int32Array;
  /** As long as `inputIds` and not shifted: the id, or -100 where there is no loss. */
  labels: Int32Array;
  /** Document of each position, when several share the row. */
  seqIdx?: Int32Array;
}

/** Sequences by index; an array of them is one. */
export interface SequenceList {
  readonly length: number;
  at(index: number): Sequence | undefined;
  /** Tokens of each sequence, where they are known without reading it. */
  readonly tokenCounts?: Int32Array;
}

/** Tokens of each sequence. */
export function tokenCounts(sequences: SequenceList): Int32Array {
  return (
    sequences.tokenCounts ??
    Int32Array.from({ length: sequences.length }, (_, index) => sequences.at(index)?.inputIds.length ?? 0)
  );
}
