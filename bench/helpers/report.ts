// SPDX-License-Identifier: Apache-2.0
/** What every benchmark prints first, and how it times. */
import { execFileSync } from 'node:child_process';
import { cpus, loadavg } from 'node:os';
import * as tf from '@tensorflow/tfjs-core';
import { loadAddon, packageRoot } from '../../src/backends/addon.ts';
import { DeviceBackend } from '../../src/backends/device_backend.ts';
import { selectBackend } from '../../src/backends/select.ts';
import { UserError } from '../../src/errors.ts';

/** Selects the `native` backend, which every benchmark here measures. */
export async function nativeBackend(): Promise<DeviceBackend> {
  await selectBackend('native');
  const backend = tf.backend();
  if (!(backend instanceof DeviceBackend)) throw new UserError('the native backend is not a device of the addon');
  return backend;
}

/** Prints what is measured and on what. */
export function printHeader(what: string): void {
  const { addon, reasons } = loadAddon();
  if (!addon) throw new UserError(`the native addon did not load: ${reasons.join('; ')}`);
  const { isa, threads } = JSON.parse(addon.describe(0)) as { isa: string; threads: number };
  const load = loadavg()[0] ?? 0;
  console.log(`# ${what}`);
  console.log(`# ${cpus()[0]?.model}, ${cpus().length} cores, ${isa}, ${threads} threads; node ${process.version}`);
  console.log(`# commit ${commit()}, ${new Date().toISOString().slice(0, 16)}Z, load average ${load.toFixed(1)}`);
  if (load > cpus().length / 2) console.log('# NOT QUIET: other programs are running, the figures are too slow');
}

function commit(): string {
  const git = (...args: string[]) => execFileSync('git', args, { cwd: packageRoot(), encoding: 'utf8' }).trim();
  try {
    return (
      git('rev-parse', '--short', 'HEAD') +
      (git('status', '--porcelain', 'src', 'native', 'trainer', 'adapters') ? ' with changes' : '')
    );
  } catch {
    return 'unknown';
  }
}

/** Prints rows as a markdown table. */
export function printTable(columns: readonly string[], rows: readonly (readonly (string | number)[])[]): void {
  console.log(`\n| ${columns.join(' | ')} |\n|${' --- |'.repeat(columns.length)}`);
  for (const row of rows) console.log(`| ${row.join(' | ')} |`);
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

export interface TimingOptions {
  /** Calls before the clock counts. Default 2. */
  warmup?: number;
  /** Fewest timed calls. Default 5. */
  calls?: number;
  /** Go on for this long, in seconds. Default 0.5. */
  seconds?: number;
}

/** Median seconds of a call. */
export function timeMedian(run: () => void, { warmup = 2, calls = 5, seconds = 0.5 }: TimingOptions = {}): number {
  for (let i = 0; i < warmup; i++) run();
  const times: number[] = [];
  const start = performance.now();
  while (times.length < calls || performance.now() - start < 1000 * seconds) {
    const from = performance.now();
    run();
    times.push((performance.now() - from) / 1000);
  }
  return median(times);
}

/** Three significant digits. */
export function digits(value: number): string {
  return value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}
