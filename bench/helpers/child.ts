// SPDX-License-Identifier: Apache-2.0
/** Runs one case of a benchmark in a process of its own, so that its memory and its number of threads are its alone. */
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const CASE_VARIABLE = 'MAMBATUNE_BENCH_CASE';

/** The case that this process was started for; undefined in the process that the user started. */
export function givenCase<T>(): T | undefined {
  const text = process.env[CASE_VARIABLE];
  return text === undefined ? undefined : (JSON.parse(text) as T);
}

/**
 * Runs the benchmark's own script for one case, with the same arguments.
 * @param script its import.meta.url
 * @returns what it gave to {@link answer}
 */
export function runCase<T>(script: string, benchCase: unknown, threads?: number): T {
  const env = {
    ...process.env,
    [CASE_VARIABLE]: JSON.stringify(benchCase),
    ...(threads && { MAMBATUNE_NUM_THREADS: String(threads) }),
  };
  const text = execFileSync(process.execPath, [fileURLToPath(script), ...process.argv.slice(2)], {
    env,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return JSON.parse(text) as T;
}

/** Ends a case with its result. */
export function answer(result: unknown): void {
  console.log(JSON.stringify(result));
}
