// SPDX-License-Identifier: Apache-2.0
/** What batches are made of: packed rows, or the examples as they are. */
import { packSequences, type SequenceList, type TokenizedDataset } from '../datasets/index.ts';
import { formatCount } from '../src/logging/format.ts';

/** The examples as they train: packed into rows of their `max_length`, or one by one. */
export function trainingRows(
  { examples, report }: TokenizedDataset,
  packing: boolean,
  onMessage: (line: string) => void,
): SequenceList {
  if (!packing) return examples;
  const rows = packSequences(examples, report.maxLength);
  const full = (100 * report.tokens) / (rows.length * report.maxLength);
  onMessage(
    `${report.name}: ${formatCount(examples.length)} records packed into ${formatCount(rows.length)} rows of up to ${formatCount(report.maxLength)} tokens, ${full.toFixed(1)} % full`,
  );
  return rows;
}
