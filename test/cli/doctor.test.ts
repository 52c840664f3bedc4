// SPDX-License-Identifier: Apache-2.0
/** mambatune doctor: text and JSON say the same, and it is true. */
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { expect, test } from 'vitest';
import type { Findings } from '../../src/cli/examine_machine.ts';
import { testedBackends } from '../helpers/backends.ts';
import { runCli, runJson } from './run_cli.ts';

type FindingsJson = Pick<Findings, 'node' | 'cpu' | 'backends' | 'selected' | 'packages'> & {
  native_addon: { path: string; device: { isa: string; threads: number } } | { problem: string };
  cuda: { device: object } | { problem: string };
  hub_cache: { path: string };
};

test('--json describes the machine', async () => {
  const { code, value } = await runJson<FindingsJson>(['doctor']);
  expect(code).toBe(0);
  expect(value.node).toBe(process.version);
  expect(value.cpu.processors).toBe(availableParallelism());
  expect(value.backends.map(({ name }) => name)).toEqual(['cuda', 'native', 'tensorflow', 'wasm', 'cpu']);
  for (const { usable, reason } of value.backends) expect(reason === null).toBe(usable);
  const usable = value.backends.filter((backend) => backend.usable).map(({ name }) => name);
  expect(usable).toEqual(expect.arrayContaining(testedBackends()));
  expect(value.selected).toEqual({ backend: usable[0] });
  expect(value.packages['@tensorflow/tfjs-core']).toBe('4.22.0');
  expect(Object.values(value.packages)).not.toContain(null);
  if (testedBackends().includes('native')) {
    const addon = value.native_addon as Extract<FindingsJson['native_addon'], { path: string }>;
    expect(existsSync(addon.path)).toBe(true);
    expect(['avx512', 'avx2', 'portable']).toContain(addon.device.isa);
    expect(addon.device.threads).toBeGreaterThan(0);
  }
});

test('the text says it to a person', async () => {
  const { code, stdout } = await runCli(['doctor']);
  expect(code).toBe(0);
  for (const line of [
    /^node +v\d/m,
    /^native addon +\S/m,
    /^cuda +\S/m,
    /^ +cpu +usable$/m,
    /^auto takes +\w/m,
    /^compiler +\S/m,
  ]) {
    expect(stdout).toMatch(line);
  }
  expect(stdout).not.toMatch(/undefined$|\[object/m);
});
