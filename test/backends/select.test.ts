// SPDX-License-Identifier: Apache-2.0
/** Which backend a run gets, and what it says about those it does not get. */
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import type { BackendChoice, BackendName } from '../../src/backends/select.ts';
import { BACKENDS, probeBackend, selectBackend } from '../../src/backends/select.ts';
import { UserError } from '../../src/errors.ts';
import { testedBackends } from '../helpers/backends.ts';

/** Why each backend cannot run here. */
async function unusable(): Promise<{ name: BackendName; reason: string }[]> {
  const reasons: { name: BackendName; reason: string }[] = [];
  for (const name of BACKENDS) {
    const reason = await probeBackend(name);
    if (reason !== undefined) reasons.push({ name, reason });
  }
  return reasons;
}

describe('selectBackend', () => {
  it.each(testedBackends())('gives %s when asked for it by name', async (name) => {
    const selected = await selectBackend(name);
    expect(selected).toEqual({ name, passedOver: [], message: `backend: ${name}` });
    expect(tf.getBackend()).toBe(name);
    expect(Array.from(tf.tidy(() => tf.add(tf.tensor1d([1, 2]), 1).dataSync()) as unknown as Float32Array)).toEqual([
      2, 3,
    ]);
  });

  it('auto takes the first of cuda, native, tensorflow, wasm, cpu that works, and says why not a better one', async () => {
    const failing = await unusable();
    const selected = await selectBackend('auto');
    const best = BACKENDS.find((name) => failing.every((other) => other.name !== name)) as BackendName;
    expect(selected.name).toBe(best);
    expect(tf.getBackend()).toBe(best);
    const better = BACKENDS.slice(0, BACKENDS.indexOf(best));
    expect(selected.passedOver.map(({ name }) => name)).toEqual(better);
    for (const { name, reason } of selected.passedOver) expect(selected.message).toContain(`not ${name}: ${reason}`);
    expect(selected.message).toMatch(new RegExp(`^backend: ${best}`));
    expect(selected.message).not.toContain('\n');
    expect(selected.message.includes('SLOW')).toBe(best === 'wasm' || best === 'cpu');
  });

  it('refuses a backend that cannot run here, with the reason and what to do', async () => {
    for (const { name, reason } of await unusable()) {
      const failure: unknown = await selectBackend(name).catch((error: unknown) => error);
      expect(failure).toBeInstanceOf(UserError);
      expect((failure as UserError).message).toContain(`no usable backend:\n  ${name}: ${reason}`);
      expect((failure as UserError).message).toContain('backend: auto');
    }
  });

  it('names the packages that tensorflow would need', async () => {
    const reason = (await probeBackend('tensorflow')) ?? 'usable';
    expect(reason).toMatch(
      /^(usable|@tensorflow\/tfjs-node-gpu (is not installed|failed to load: .+), @tensorflow\/tfjs-node (is not installed|failed to load: .+))$/,
    );
  });

  it('refuses a name that it does not know, listing those it does', async () => {
    const failure: unknown = await selectBackend('webgl' as BackendChoice).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(UserError);
    expect((failure as UserError).message).toMatch(/webgl.*cuda, native, tensorflow, wasm, cpu/s);
  });

  it('leaves the backend in use when the one asked for does not work', async () => {
    await selectBackend('cpu');
    for (const { name } of await unusable()) await selectBackend(name).catch(() => undefined);
    expect(tf.getBackend()).toBe('cpu');
  });
});
