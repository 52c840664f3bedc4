import { defineConfig } from 'vitest/config';

export default defineConfig({
  resolve: { alias: { mambatune: new URL('./src/index.ts', import.meta.url).pathname } },
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['test/parity/**', 'test/slow/**', 'node_modules/**'],
    pool: 'forks',
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
