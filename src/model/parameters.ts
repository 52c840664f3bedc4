// SPDX-License-Identifier: Apache-2.0
/** A model's parameters as variables, under the names of the checkpoints. */
import type { Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { checkTensors, expectedTensors } from '../checkpoint/expected_tensors.ts';
import type { TensorSource } from '../checkpoint/tensor_source.ts';
import { UserError } from '../errors.ts';
import type { MambaConfig } from './config.ts';
import { initialTensors } from './init.ts';

export type Parameters = Map<string, Variable>;

/** The head's own matrix; absent when it is tied to the embeddings. */
export const HEAD = 'lm_head.weight';

/**
 * Reads every parameter of a checkpoint, one tensor in host memory at a time.
 * @param without names to leave out
 * @throws UserError listing missing and mis-shaped tensors, or naming one that holds NaN or infinity
 */
export function loadParameters(config: MambaConfig, source: TensorSource, without: readonly string[] = []): Parameters {
  checkTensors(config, source);
  const parameters: Parameters = new Map();
  try {
    for (const [name, shape] of expectedTensors(config)) {
      if (without.includes(name)) continue;
      const data = source.readFloat32(name);
      checkFinite(data, name, source.path);
      parameters.set(name, frozenVariable(data, shape));
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

function checkFinite(data: Float32Array, name: string, path: string): void {
  const bad = data.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0)
    throw new UserError(`${path}: tensor ${name} holds ${data[bad]} at element ${bad}; the checkpoint is damaged.`);
}
