// SPDX-License-Identifier: Apache-2.0
/** Registers our devices as tfjs backends. */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { loadAddon } from './addon.ts';
import { DeviceBackend } from './device_backend.ts';
import { registerDeviceKernels } from './kernels/all.ts';

/**
 * Registers the `native` backend.
 * @returns undefined when it is ready, otherwise why it is not
 */
export function registerNative(): string | undefined {
  const { addon, reasons } = loadAddon();
  if (!addon) return `the native addon did not load (${reasons.join('; ')}); build it with: npm run build:native`;
  if (tf.findBackendFactory('native')) return undefined;
  registerDeviceKernels('native');
  tf.registerBackend('native', () => new DeviceBackend(addon, 'native'), 0);
  return undefined;
}

/**
 * Registers the `cuda` backend.
 * @returns undefined when it is ready, otherwise why it is not
 */
export function registerCuda(): string | undefined {
  const { addon, path, reasons } = loadAddon();
  if (!addon || !path) return `the native addon did not load (${reasons.join('; ')})`;
  if (tf.findBackendFactory('cuda')) return undefined;
  const plugin = join(dirname(path), 'native_cuda.so');
  if (!existsSync(plugin)) return 'the CUDA plugin native_cuda.so was not built (it needs nvcc at build time)';
  const error = addon.openCuda(plugin);
  if (error) return error;
  registerDeviceKernels('cuda');
  tf.registerBackend('cuda', () => new DeviceBackend(addon, 'cuda'), 0);
  return undefined;
}
