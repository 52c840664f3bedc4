// SPDX-License-Identifier: Apache-2.0
/** Runs test/slow, and whole what `npm test` shortens. */
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    root: new URL('../..', import.meta.url).pathname,
    include: ['test/slow/**/*.test.ts', 'test/trainer/golden.test.ts'],
    env: { MAMBATUNE_TEST_SLOW: '1' },
    pool: 'forks',
    fileParallelism: false,
    testTimeout: 600_000,
  },
});
