// SPDX-License-Identifier: Apache-2.0
import type { Tensor } from '@tensorflow/tfjs-core';
import type { Batch } from '../datasets/index.ts';
import { isOutOfMemory } from '../src/backends/out_of_memory.ts';
import { UserError } from '../src/errors.ts';
import { formatBytes } from '../src/logging/format.ts';
import type { TrainableModel } from './model.ts';

/** Tensors of a trainable parameter that stay: itself, exp_avg, exp_avg_sq. */
const MOMENTS = 2;

/**
 * Adds to an error that the device's memory is full what the run keeps there.
 * @returns the error itself when it is another one
 */
export function explainOutOfMemory(error: unknown, model: TrainableModel, batches: readonly Batch[]): unknown {
  if (!isOutOfMemory(error)) return error;
  const trainable = bytesOf(model.trainableParameters().values());
  const base = bytesOf([...model.parameters.values()].filter((parameter) => !parameter.trainable));
  const shapes = [...new Set(batches.map(({ batch, seqlen }) => `${batch}x${seqlen}`))].join(', ');
  return new UserError(
    `${error.message}.\nThe run keeps ${formatBytes(base)} of frozen weights, ${formatBytes(trainable)} that train, and ${formatBytes(MOMENTS * trainable)} of their AdamW moments; what else is in use are activations and gradients of a step of batches ${shapes}. Checkpoints that were saved are whole.`,
    { cause: error },
  );
}

function bytesOf(tensors: Iterable<Tensor>): number {
  let bytes = 0;
  for (const { size } of tensors) bytes += size * Float32Array.BYTES_PER_ELEMENT;
  return bytes;
}
