// SPDX-License-Identifier: Apache-2.0
/** Runs one test body on every backend that must work here. */
import { beforeAll, describe, expect, it } from 'vitest';
import { selectBackend } from '../../src/backends/select.ts';

export type TestedBackend = 'cuda' | 'native' | 'wasm' | 'cpu';

/**
 * `native` is always tested, so a missing addon fails, unless MAMBATUNE_TEST_WITHOUT_NATIVE=1 says that this machine has no compiler.
 * With MAMBATUNE_TEST_CUDA=1, as `npm run test:cuda` sets it, `cuda` is tested and nothing else.
 */
export function testedBackends(): TestedBackend[] {
  if (process.env.MAMBATUNE_TEST_CUDA === '1') return ['cuda'];
  return [...(process.env.MAMBATUNE_TEST_WITHOUT_NATIVE === '1' ? [] : (['native'] as const)), 'wasm', 'cpu'];
}

/** The backend of tests that need only one. */
export const bestBackend = testedBackends()[0] as TestedBackend;

/** Those of {@link testedBackends} that run our kernels. */
export function testedDevices(): ('cuda' | 'native')[] {
  return testedBackends().filter((name) => name === 'cuda' || name === 'native');
}

/** Declares the tests of `body` once for every tested backend, with that backend selected. */
export function forEachBackend(body: (backend: TestedBackend) => void): void {
  for (const name of testedBackends()) onBackend(name, () => body(name));
}

/** Declares the tests of `body` once for each device of the native addon that is tested. */
export function forEachDevice(body: (backend: 'cuda' | 'native') => void): void {
  const devices = testedDevices();
  for (const name of devices) onBackend(name, () => body(name));
  if (devices.length > 0) return;
  it('is NOT TESTED here: MAMBATUNE_TEST_WITHOUT_NATIVE=1 says that there is no native device', () => {
    expect(process.env.MAMBATUNE_TEST_WITHOUT_NATIVE).toBe('1');
  });
}

/** Declares the tests of `body` with one backend selected. */
export function onBackend(name: TestedBackend, body: () => void): void {
  describe(`on ${name}`, () => {
    beforeAll(async () => {
      await selectBackend(name);
    });
    body();
  });
}

/** Whether the backend runs our kernels, rather than ops composed of tfjs's. */
export function hasOwnKernels(backend: TestedBackend): boolean {
  return backend === 'native' || backend === 'cuda';
}
