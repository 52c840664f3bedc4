// SPDX-License-Identifier: Apache-2.0
/** Leak checks: tensors of tfjs, bytes of the device. */
import * as tf from '@tensorflow/tfjs-core';
import { expect } from 'vitest';
import { DeviceBackend } from '../../src/backends/device_backend.ts';

/** What is alive now; the device's part only on a backend of ours. */
export function liveMemory(): Record<string, number> {
  const { numTensors, numDataBuffers } = tf.memory();
  const backend = tf.backend();
  if (!(backend instanceof DeviceBackend)) return { numTensors, numDataBuffers };
  const { liveBytes, liveBuffers } = backend.memoryStats();
  return { numTensors, numDataBuffers, liveBytes, liveBuffers };
}

/** Runs body and fails when it leaves a tensor or a byte behind. */
export function expectNoLeak<T>(body: () => T): T {
  const before = liveMemory();
  const result = body();
  expect(liveMemory(), 'live memory after, against before').toEqual(before);
  return result;
}
