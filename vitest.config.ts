// SPDX-License-Identifier: Apache-2.0
/** `npm test`: everything that needs neither Python, nor a GPU, nor many minutes. */
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';
import { findCompiler } from './native/toolchain.mjs';

const fromRoot = (path: string) => fileURLToPath(new URL(path, import.meta.url));

/** The tests demand the native backend, except on a machine that cannot have built it. */
function withoutNative(): Record<string, string> {
  const addon = fromRoot(`build/${process.platform}-${process.arch}/native.node`);
  if (process.env.MAMBATUNE_NATIVE || existsSync(addon) || findCompiler()) return {};
  console.error('\n*** no C++ compiler: the native backend is NOT tested on this machine\n');
  return { MAMBATUNE_TEST_WITHOUT_NATIVE: '1' };
}

export default defineConfig({
  resolve: { alias: { mambatune: fromRoot('src/index.ts') } },
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['test/parity/**', 'test/slow/**', 'test/cuda/**', 'node_modules/**'],
    env: withoutNative(),
    pool: 'forks',
    maxWorkers: Math.max(2, availableParallelism() - 1),
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
