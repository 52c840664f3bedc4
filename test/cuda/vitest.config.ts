// SPDX-License-Identifier: Apache-2.0
/** `npm run test:cuda`: the bodies of the op, model, adapter, trainer and golden tests on the GPU alone, and what only the GPU has. */
import { defineConfig } from 'vitest/config';

const SHARED = ['ops', 'backends', 'autograd', 'model', 'adapters', 'trainer', 'generation'];

export default defineConfig({
  test: {
    root: new URL('../..', import.meta.url).pathname,
    include: [
      ...SHARED.map((folder) => `test/${folder}/**/*.test.ts`),
      'test/slow/seed_recipe.test.ts',
      'test/cuda/**/*.test.ts',
    ],
    env: { MAMBATUNE_TEST_CUDA: '1' },
    globalSetup: ['test/cuda/require_gpu.ts'],
    pool: 'forks',
    // Each worker holds a CUDA context of its own.
    maxWorkers: 8,
    testTimeout: 120_000,
    hookTimeout: 60_000,
  },
});
