// SPDX-License-Identifier: Apache-2.0
/** Runs the peers' side of a comparison in Python, where there is one. */
import { spawnSync } from 'node:child_process';

/** Runs Python (MAMBATUNE_PYTHON, else python3); its last line of output as JSON. Undefined, with a line on stderr, when it failed. */
export function runPython<T>(args: readonly string[], environment: Record<string, string> = {}): T | undefined {
  const python = process.env.MAMBATUNE_PYTHON ?? 'python3';
  // Overrides of the processor that OpenBLAS would detect itself.
  const inherited = Object.entries(process.env).filter(([name]) => !/^OPENBLAS_(CORETYPE|L2_SIZE)$/.test(name));
  const env = { ...Object.fromEntries(inherited), HF_HUB_OFFLINE: '1', ...environment };
  const { status, stdout, stderr, error } = spawnSync(python, args, { encoding: 'utf8', env });
  const lines = (stdout ?? '').trim().split('\n');
  if (error || status !== 0) {
    process.stderr.write(`# peer not measured: ${python}: ${error?.message ?? stderr.trim().split('\n').at(-1)}\n`);
    return undefined;
  }
  return JSON.parse(lines.at(-1) as string) as T;
}
