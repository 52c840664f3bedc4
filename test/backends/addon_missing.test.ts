// SPDX-License-Identifier: Apache-2.0
/** What a machine without the native addon is told. */
import { expect, it, vi } from 'vitest';

it('names the file that did not load, and how to build it', async () => {
  vi.stubEnv('MAMBATUNE_NATIVE', '/nowhere/native.node');
  vi.resetModules();
  const { loadAddon } = await import('../../src/backends/addon.ts');
  const { probeBackend, selectBackend } = await import('../../src/backends/select.ts');
  expect(loadAddon()).toEqual({ reasons: [expect.stringMatching(/^\/nowhere\/native\.node: Cannot find module/)] });
  expect(await probeBackend('native')).toMatch(
    /^the native addon did not load \(\/nowhere\/native\.node: .*\); build it with: npm run build:native$/,
  );
  expect(await probeBackend('cuda')).toMatch(/^the native addon did not load/);
  const { name, passedOver, message } = await selectBackend('auto');
  expect(name).toBe('wasm');
  expect(passedOver.map((other) => other.name)).toEqual(['cuda', 'native', 'tensorflow']);
  expect(message).toMatch(
    /^backend: wasm \(SLOW: no native kernels\) \(not cuda: .*; not native: .*; not tensorflow: .*\)$/,
  );
  vi.unstubAllEnvs();
});
