// SPDX-License-Identifier: Apache-2.0
/**
 * Packs documents into rows by best fit decreasing, as trl's packing_strategy bfd does: the longest document first, each
 * into the fullest row that still has room for it. Nothing is cut.
 */
import { IGNORE_INDEX } from './fields.ts';
import { type SequenceList, tokenCounts } from './sequences.ts';

/** Rows of whole documents, each with its `seqIdx`: what a row's documents see of one another is nothing. */
export interface PackedSequences extends SequenceList {
  /** Indices of a row's documents, in their order. */
  documentsOf(row: number): Int32Array;
  readonly tokenCounts: Int32Array;
}

/**
 * Packs documents into as few rows of at most `rowLength` tokens as best fit finds. Rows come in the order of their first
 * documents, and documents in a row in their own order; the first label of each is -100, since the position before it
 * belongs to another document.
 *
 * @param documents none longer than `rowLength`
 */
export function packSequences(documents: SequenceList, rowLength: number): PackedSequences {
  const lengths = tokenCounts(documents);
  const { starts, order, rows } = groupByRow(assignRows(lengths, rowLength));
  const documentsOf = (row: number) => order.subarray(starts[row], starts[row + 1]);
  const rowTokens = Int32Array.from({ length: rows }, (_, row) =>
    documentsOf(row).reduce((sum, document) => sum + (lengths[document] as number), 0),
  );

  const at = (row: number) => {
    const tokens = rowTokens[row];
    if (tokens === undefined) return undefined;
    const inputIds = new Int32Array(tokens);
    const labels = new Int32Array(tokens);
    const seqIdx = new Int32Array(tokens);
    let start = 0;
    for (const [index, document] of documentsOf(row).entries()) {
      const sequence = documents.at(document);
      if (sequence === undefined) throw new Error(`packSequences: there is no document ${document}`);
      inputIds.set(sequence.inputIds, start);
      labels.set(sequence.labels, start);
      labels[start] = IGNORE_INDEX;
      const end = start + sequence.inputIds.length;
      seqIdx.fill(index, start, end);
      start = end;
    }
    return { inputIds, labels, seqIdx };
  };
  return { length: rows, at, tokenCounts: rowTokens, documentsOf };
}

/** The row of each document. */
function assignRows(lengths: Int32Array, rowLength: number): Int32Array {
  const rowOf = new Int32Array(lengths.length);
  /** Rows by the room they have left. */
  const rowsByRoom: number[][] = Array.from({ length: rowLength + 1 }, () => []);
  let rows = 0;
  let previousLength = -1;
  /** No row with at least the current length of room has less room than this. */
  let room = 0;
  for (const document of byLengthDecreasing(lengths, rowLength)) {
    const length = lengths[document] as number;
    if (length !== previousLength) room = length;
    previousLength = length;
    while (room < rowLength && rowsByRoom[room]?.length === 0) room += 1;
    const row = room <= rowLength ? (rowsByRoom[room]?.pop() ?? rows++) : rows++;
    rowOf[document] = row;
    const left = room - length;
    rowsByRoom[left]?.push(row);
    if (left >= length) room = left;
  }
  return rowOf;
}

/** Indices of the documents, the longest first; equally long ones in their order. */
function byLengthDecreasing(lengths: Int32Array, rowLength: number): Int32Array {
  const longest = lengths.findIndex((length) => length > rowLength);
  if (longest !== -1) {
    throw new Error(`packSequences: document ${longest} has ${lengths[longest]} tokens, a row has ${rowLength}`);
  }
  return Int32Array.from(lengths, (_, index) => index).sort(
    (a, b) => (lengths[b] as number) - (lengths[a] as number) || a - b,
  );
}

/** Documents row after row; rows numbered by their first documents. */
function groupByRow(rowOf: Int32Array): { starts: Int32Array; order: Int32Array; rows: number } {
  const renamed = new Map<number, number>();
  for (const row of rowOf) if (!renamed.has(row)) renamed.set(row, renamed.size);
  const rows = renamed.size;
  const newRow = rowOf.map((row) => renamed.get(row) as number);
  const starts = new Int32Array(rows + 1);
  for (const row of newRow) starts[row + 1] = (starts[row + 1] as number) + 1;
  for (let row = 0; row < rows; row++) starts[row + 1] = (starts[row + 1] as number) + (starts[row] as number);
  const next = starts.slice();
  const order = new Int32Array(rowOf.length);
  newRow.forEach((row, document) => {
    order[next[row] as number] = document;
    next[row] = (next[row] as number) + 1;
  });
  return { starts, order, rows };
}
