// SPDX-License-Identifier: Apache-2.0
/** A model's parameters as variables, under the names of the checkpoints. */
import type { Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { checkTensors, expectedTensors } from '../checkpoint/expected_tensors.ts';
import type { RowRange, TensorSource } from '../checkpoint/tensor_source.ts';
import { UserError } from '../errors.ts';
import type { MambaConfig } from './config.ts';
import { initialTensors } from './init.ts';

export type Parameters = Map<string, Variable>;

export const EMBEDDING = 'backbone.embeddings.weight';
/** The head's own matrix; absent when it is tied to the embeddings. */
export const HEAD = 'lm_head.weight';

/**
 * Reads every parameter of a checkpoint, one tensor in host memory at a time.
 * @param without names to leave out
 * @throws UserError listing missing and mis-shaped tensors, or naming one that holds NaN or infinity
 */
export function loadParameters(config: MambaConfig, source: TensorSource, without: readonly string[] = []): Parameters {
  checkTensors(config, source);
  return readParameters(config, source, (name) => !without.includes(name));
}

/**
 * Reads those parameters of a checked checkpoint that `isWanted`.
 * @throws UserError naming one that holds NaN or infinity
 */
export function readParameters(
  config: MambaConfig,
  source: TensorSource,
  isWanted: (name: string) => boolean,
): Parameters {
  const parameters: Parameters = new Map();
  try {
    for (const [name, shape] of expectedTensors(config)) {
      if (isWanted(name)) parameters.set(name, frozenVariable(readFinite(source, name), shape));
    }
    return parameters;
  } catch (error) {
    disposeParameters(parameters);
    throw error;
  }
}

/** Parameters drawn at random ({@link initialTensors}). */
export function randomParameters(config: MambaConfig, seed: number): Parameters {
  return new Map(
    Array.from(initialTensors(config, seed), ({ name, shape, data }) => [name, frozenVariable(data, shape)]),
  );
}

export function disposeParameters(parameters: Parameters): void {
  for (const variable of parameters.values()) variable.dispose();
}

function frozenVariable(data: Float32Array, shape: number[]): Variable {
  return tf.tidy(() => tf.variable(tf.tensor(data, shape), false));
}

/**
 * Values of a tensor, or of some of its rows.
 * @throws UserError when one is NaN or infinite
 */
export function readFinite(source: TensorSource, name: string, rows?: RowRange): Float32Array<ArrayBuffer> {
  const data = source.readFloat32(name, rows);
  const bad = data.findIndex((value) => !Number.isFinite(value));
  if (bad < 0) return data;
  const where = rows ? `${bad} from row ${rows.start}` : bad;
  throw new UserError(
    `${source.path}: tensor ${name} holds ${data[bad]} at element ${where}; the checkpoint is damaged.`,
  );
}
