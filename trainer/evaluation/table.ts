// SPDX-License-Identifier: Apache-2.0
/** An evaluation for a person to read. */
import { formatCount, formatNumber } from '../../src/logging/format.ts';
import type { Difference } from './bootstrap.ts';
import type { EvalReport, GateResult, JobReport } from './report.ts';

/** A heading, a table and the gate of each job, as lines. */
export function formatReport({ jobs, confidence }: EvalReport): string[] {
  return jobs.flatMap((job, at) => [...(at > 0 ? [''] : []), ...formatJob(job, confidence)]);
}

function formatJob(job: JobReport, confidence: number): string[] {
  const tokens = job.tokens === undefined ? '' : `, ${formatCount(job.tokens)} tokens`;
  const title = job.name === job.type ? job.type : `${job.name} (${job.type})`;
  const names = job.results[0]?.metrics.map(({ name }) => name) ?? [];
  const isCompared = job.results.length > 1;
  const interval = `difference, ${formatNumber(100 * confidence)} % interval`;
  const rows = [
    ['', ...names.flatMap((name) => (isCompared ? [name, interval] : [name]))],
    ...job.results.map(({ variant, metrics }) => [
      variant,
      ...metrics.flatMap(({ value, difference }) => [
        formatValue(value),
        ...(isCompared ? [formatDifference(difference)] : []),
      ]),
    ]),
  ];
  return [
    `${title}: ${job.data}, ${formatCount(job.records)} records${tokens}`,
    ...alignColumns(rows),
    ...(job.gate ? formatGate(job.gate) : []),
  ];
}

function formatDifference(difference: Difference | null): string {
  if (difference === null) return '';
  const { value, low, high } = difference;
  const signed = (number: number) => `${number < 0 ? '' : '+'}${formatValue(number)}`;
  return low === null || high === null ? signed(value) : `${signed(value)} (${signed(low)} to ${signed(high)})`;
}

function formatGate({ metric, max_regression: allowed, regressions }: GateResult): string[] {
  return regressions.map(({ variant, regression, passed }) => {
    const found = regression > 0 ? `${formatValue(regression)} worse` : 'not worse';
    return `gate ${passed ? 'passed' : 'FAILED'}: ${metric} of ${variant} is ${found} than the base model's, ${formatNumber(allowed)} allowed`;
  });
}

/** Four decimals, fewer from a hundred on. */
function formatValue(value: number): string {
  return Math.abs(value) >= 99.95 ? formatNumber(value) : value.toFixed(4);
}

function alignColumns(rows: readonly string[][]): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] as number))
      .join('  ')
      .trimEnd(),
  );
}
