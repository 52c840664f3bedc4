// SPDX-License-Identifier: Apache-2.0
/** Recorded work: on a device with graphs, a computation captured once and launched again without its cost on the host. */
import type { Tensor, TypedArray } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { DEVICE_INDEX } from './addon.ts';
import { DeviceBackend } from './device_backend.ts';

export interface Recording<T extends Tensor[]> {
  /** What the computation returned. Valid after a launch, until the next launch of any recording. */
  readonly outputs: T;
  /** Runs the computation on what its inputs hold now. */
  launch(): void;
  /** Frees the outputs and the device's share. */
  release(): void;
}

/** Whether the current backend can record. */
export function canRecord(): boolean {
  const backend = tf.backend();
  return backend instanceof DeviceBackend && backend.device === DEVICE_INDEX.cuda;
}

/**
 * Records f, without running it. Its inputs must have been made before; inside, nothing may be uploaded or read.
 * @throws what f throws; nothing is recorded then
 */
export function record<T extends Tensor[]>(f: () => T): Recording<T> {
  const { addon, device } = deviceBackend();
  addon.graphBegin(device);
  let outputs: T;
  try {
    outputs = tf.tidy(f);
  } catch (error) {
    addon.graphDiscard(device);
    throw error;
  }
  for (const output of outputs) tf.keep(output);
  const graph = addon.graphEnd(device);
  return {
    outputs,
    launch: () => addon.graphLaunch(device, graph),
    release: () => {
      tf.dispose(outputs);
      addon.graphRelease(device, graph);
    },
  };
}

/** Writes values into a tensor's own memory, which recordings that read the tensor then see. */
export function overwrite(tensor: Tensor, values: TypedArray): void {
  deviceBackend().overwrite(tensor, values);
}

/** Copies a tensor's values into a part of another of the same dtype, from an element on: on the device, in place. */
export function copyInto(target: Tensor, firstElement: number, source: Tensor): void {
  deviceBackend().copyInto(target, firstElement, source);
}

function deviceBackend(): DeviceBackend {
  const backend = tf.backend();
  if (backend instanceof DeviceBackend) return backend;
  throw new Error(`the backend ${tf.getBackend()} cannot record`);
}
