// SPDX-License-Identifier: Apache-2.0
/** What every benchmark prints first, and how it times. */
import { execFileSync } from 'node:child_process';
import { cpus, loadavg } from 'node:os';
import * as tf from '@tensorflow/tfjs-core';
import { DEVICE_INDEX, loadAddon, packageRoot } from '../../src/backends/addon.ts';
import { DeviceBackend } from '../../src/backends/device_backend.ts';
import { canRecord, record } from '../../src/backends/graphs.ts';
import { selectBackend } from '../../src/backends/select.ts';
import { UserError } from '../../src/errors.ts';

/** Selects the `native` backend, for what is measured on the CPU alone. */
export function nativeBackend(): Promise<DeviceBackend> {
  return deviceBackend('native');
}

/** Whether the command line says `--backend=cuda`: what can be measured on both devices is measured on the GPU then. */
export const isOnGpu = process.argv.includes('--backend=cuda');

/** Selects `cuda` where the command line asks for it, else `native`. */
export function benchBackend(): Promise<DeviceBackend> {
  return deviceBackend(isOnGpu ? 'cuda' : 'native');
}

async function deviceBackend(name: 'native' | 'cuda'): Promise<DeviceBackend> {
  await selectBackend(name);
  const backend = tf.backend();
  if (!(backend instanceof DeviceBackend)) throw new UserError(`the ${name} backend is not a device of the addon`);
  return backend;
}

/** Prints what is measured and on what; on the GPU, after its backend was selected. */
export function printHeader(what: string): void {
  const { addon, reasons } = loadAddon();
  if (!addon) throw new UserError(`the native addon did not load: ${reasons.join('; ')}`);
  const { isa, threads } = JSON.parse(addon.describe(DEVICE_INDEX.native)) as { isa: string; threads: number };
  const load = loadavg()[0] ?? 0;
  console.log(`# ${what}`);
  if (isOnGpu) {
    const { device, driverCuda, runtimeCuda, cublas } = JSON.parse(addon.describe(DEVICE_INDEX.cuda));
    console.log(`# ${device}, driver's CUDA ${driverCuda}, built with ${runtimeCuda}, cuBLAS ${cublas}`);
  }
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

/** Recorded calls of one launch. */
const CALLS_PER_LAUNCH = 20;

/**
 * Median seconds of a call on the device. On the GPU calls are recorded as one graph, so that what the host does between kernels
 * does not count.
 */
export function timeOnDevice(backend: DeviceBackend, run: () => void): number {
  if (!canRecord()) return timeMedian(run);
  run(); // What a first call makes once must not be recorded.
  const recording = record(() => {
    for (let i = 0; i < CALLS_PER_LAUNCH; i++) run();
    return [];
  });
  const launch = () => {
    recording.launch();
    backend.addon.synchronize(backend.device);
  };
  const seconds = timeMedian(launch, { warmup: 3, calls: 10, seconds: 0.2 });
  recording.release();
  return seconds / CALLS_PER_LAUNCH;
}

/** Three significant digits. */
export function digits(value: number): string {
  return value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}
