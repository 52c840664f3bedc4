// SPDX-License-Identifier: Apache-2.0
/** Runs test/parity alone. */
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    root: new URL('../..', import.meta.url).pathname,
    include: ['test/parity/**/*.test.ts'],
    globalSetup: ['test/parity/find_python.ts'],
    pool: 'forks',
    fileParallelism: false,
    testTimeout: 300_000,
    hookTimeout: 300_000,
  },
});
