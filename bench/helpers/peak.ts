// SPDX-License-Identifier: Apache-2.0
/** The machine's peak, by a small C++ program (peak.cc) that is compiled for it. */
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { packageRoot } from '../../src/backends/addon.ts';

export interface Peak {
  /** Float32 operations a second, a fused multiply-add being two. */
  flops: number;
  /** Bytes a second, read and written, of copying large arrays. */
  copyBytes: number;
  /** Bytes a second of reading a large array. */
  readBytes: number;
}

/** Compiles and runs the probe. @throws when there is no C++ compiler (c++, or CXX) */
export function measurePeak(threads: number): Peak {
  const program = join(packageRoot(), 'build', 'bench', 'peak');
  mkdirSync(dirname(program), { recursive: true });
  const source = join(packageRoot(), 'bench', 'helpers', 'peak.cc');
  execFileSync(
    process.env.CXX ?? 'c++',
    ['-std=c++17', '-O3', '-march=native', '-ffp-contract=fast', '-pthread', '-o', program, source],
    { stdio: 'inherit' },
  );
  const printed = execFileSync(program, [String(threads)], { encoding: 'utf8' });
  const { flops, copy_bytes, read_bytes } = JSON.parse(printed) as Record<string, number>;
  return { flops, copyBytes: copy_bytes, readBytes: read_bytes } as Peak;
}
