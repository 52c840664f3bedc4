// SPDX-License-Identifier: Apache-2.0
/** Recorded work: on a device with graphs, a computation captured once and launched again without its cost on the host. */
import type { Tensor, Tensor1D, Tensor2D, TypedArray } from '@tensorflow/tfjs-core';
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

/**
 * Takes the first of each row's largest logits: on the device, in place.
 * @param logits [rows, vocab_size]
 * @param into.tokens int32, one element a row: written over with the row's token
 * @param into.choices int32 [slots, rows]: the token goes into the slot of counts % slots; -1 where there is none, because a logit is NaN
 *   or none is above -Infinity, and `tokens` gets 0
 * @param into.counts int32 [rows]: each goes up by one
 */
export function chooseLikeliest(
  logits: Tensor2D,
  { tokens, choices, counts }: { tokens: Tensor; choices: Tensor2D; counts: Tensor1D },
): void {
  deviceBackend().chooseLikeliest(logits, tokens, choices, counts);
}

function deviceBackend(): DeviceBackend {
  const backend = tf.backend();
  if (backend instanceof DeviceBackend) return backend;
  throw new Error(`the backend ${tf.getBackend()} cannot record`);
}
