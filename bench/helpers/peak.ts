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
  const { flops, copy_bytes } = JSON.parse(execFileSync(program, [String(threads)], { encoding: 'utf8' })) as {
    flops: number;
    copy_bytes: number;
  };
  return { flops, copyBytes: copy_bytes };
}
