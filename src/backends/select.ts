// SPDX-License-Identifier: Apache-2.0
/** Chooses the tfjs backend that a run computes on, and says why. */
import { createRequire } from 'node:module';
import { dirname, join, sep } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { messageOf, UserError } from '../errors.ts';
import { registerCuda, registerNative } from './native_backends.ts';

/** Best first. */
export const BACKENDS = ['cuda', 'native', 'tensorflow', 'wasm', 'cpu'] as const;
export type BackendName = (typeof BACKENDS)[number];
export type BackendChoice = BackendName | 'auto';

export interface SelectedBackend {
  name: BackendName;
  /** Why each better backend was passed over, best first; empty when one was asked for by name. */
  passedOver: { name: BackendName; reason: string }[];
  /** One line for the log. */
  message: string;
}

/** Makes a backend ready: undefined when it is, otherwise why it cannot be. */
const prepare: Record<BackendName, () => Promise<string | undefined>> = {
  cuda: async () => registerCuda(),
  native: async () => registerNative(),
  tensorflow: registerTensorflow,
  wasm: registerWasm,
  cpu: registerCpu,
};

/**
 * Selects and starts a backend.
 *
 * @param choice a backend, or `auto` (default) for the first of {@link BACKENDS} that works
 * @throws UserError when the backend asked for is not known or not usable, with the reason
 */
export async function selectBackend(choice: BackendChoice = 'auto'): Promise<SelectedBackend> {
  if (choice !== 'auto' && !BACKENDS.includes(choice)) {
    throw new UserError(`unknown backend '${choice}'; expected auto or one of: ${BACKENDS.join(', ')}`);
  }
  const passedOver: SelectedBackend['passedOver'] = [];
  for (const name of choice === 'auto' ? BACKENDS : [choice]) {
    const reason = await tryBackend(name);
    if (reason === undefined) return { name, passedOver, message: describe(name, choice, passedOver) };
    passedOver.push({ name, reason });
  }
  const reasons = passedOver.map(({ name, reason }) => `${name}: ${reason}`).join('\n  ');
  const others =
    choice === 'auto' ? '' : '\nUse `backend: auto` for the best one that works; `mambatune doctor` says more.';
  throw new UserError(`no usable backend:\n  ${reasons}${others}`);
}

/** Why a backend cannot run here; undefined when it can. Leaves it registered, not selected. */
export async function probeBackend(name: BackendName): Promise<string | undefined> {
  try {
    return await prepare[name]();
  } catch (error) {
    return messageOf(error).split('\n')[0];
  }
}

async function tryBackend(name: BackendName): Promise<string | undefined> {
  const reason = await probeBackend(name);
  if (reason !== undefined) return reason;
  try {
    if (!(await tf.setBackend(name))) return 'it did not start';
    await tf.ready();
    return undefined;
  } catch (error) {
    return messageOf(error).split('\n')[0];
  }
}

function describe(name: BackendName, choice: BackendChoice, passedOver: SelectedBackend['passedOver']): string {
  if (choice !== 'auto') return `backend: ${name}`;
  const missed = passedOver.map((other) => `not ${other.name}: ${other.reason}`).join('; ');
  const slow = name === 'wasm' || name === 'cpu' ? ' (SLOW: no native kernels)' : '';
  return `backend: ${name}${slow}${missed && ` (${missed})`}`;
}

async function registerTensorflow(): Promise<string | undefined> {
  const missing: string[] = [];
  for (const packageName of ['@tensorflow/tfjs-node-gpu', '@tensorflow/tfjs-node']) {
    try {
      await importFromUser(packageName);
      return undefined;
    } catch (error) {
      const message = messageOf(error).split('\n')[0];
      missing.push(
        isMissing(error, packageName) ? `${packageName} is not installed` : `${packageName} failed to load: ${message}`,
      );
    }
  }
  return missing.join(', ');
}

/** Imports an optional package from this package's tree or from the folder the user runs in. */
async function importFromUser(packageName: string): Promise<unknown> {
  const bases = [import.meta.url, join(process.cwd(), 'package.json')];
  let failure: unknown;
  for (const base of bases) {
    try {
      return createRequire(base)(packageName);
    } catch (error) {
      if (!failure || !isMissing(error, packageName)) failure = error;
    }
  }
  throw failure;
}

function isMissing(error: unknown, packageName: string): boolean {
  return (error as NodeJS.ErrnoException).code === 'MODULE_NOT_FOUND' && messageOf(error).includes(`'${packageName}'`);
}

async function registerCpu(): Promise<undefined> {
  // PROD silences tfjs's console banner and nothing else.
  tf.env().set('PROD', true);
  await import('@tensorflow/tfjs-backend-cpu');
}

async function registerWasm(): Promise<string | undefined> {
  const wasm = await import('@tensorflow/tfjs-backend-wasm');
  const main = createRequire(import.meta.url).resolve('@tensorflow/tfjs-backend-wasm');
  wasm.setWasmPaths(dirname(main) + sep);
  return undefined;
}
