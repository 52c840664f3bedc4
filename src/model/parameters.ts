// SPDX-License-Identifier: Apache-2.0
/** A model's parameters as variables, under the names of the checkpoints. */
import type { Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { float32ToBfloat16 } from '../checkpoint/dtypes.ts';
import { checkTensors, expectedTensors } from '../checkpoint/expected_tensors.ts';
import type { RowRange, TensorSource } from '../checkpoint/tensor_source.ts';
import { UserError } from '../errors.ts';
import type { MambaConfig } from './config.ts';
import { initialTensors } from './init.ts';

/** Type that the values of weight matrices are rounded to; they are held in float32 all the same. */
export type WeightDtype = 'float32' | 'bfloat16';

export type Parameters = Map<string, Variable>;

export const EMBEDDING = 'backbone.embeddings.weight';
/** The head's own matrix; absent when it is tied to the embeddings. */
export const HEAD = 'lm_head.weight';

/**
 * Reads every parameter of a checkpoint, one tensor in host memory at a time.
 * @param options.without names to leave out
 * @param options.dtype round weight matrices to it: see LoadOptions.dtype
 * @throws UserError listing missing and mis-shaped tensors, or naming one that holds NaN or infinity
 */
export function loadParameters(
  config: MambaConfig,
  source: TensorSource,
  options: { without?: readonly string[]; dtype?: WeightDtype } = {},
): Parameters {
  const { without = [], dtype = 'float32' } = options;
  checkTensors(config, source);
  return readParameters(config, source, (name) => !without.includes(name), dtype);
}

/**
 * Reads those parameters of a checked checkpoint that `isWanted`.
 * @throws UserError naming one that holds NaN or infinity
 */
export function readParameters(
  config: MambaConfig,
  source: TensorSource,
  isWanted: (name: string) => boolean,
  dtype: WeightDtype = 'float32',
): Parameters {
  const parameters: Parameters = new Map();
  try {
    for (const [name, shape] of expectedTensors(config)) {
      if (!isWanted(name)) continue;
      parameters.set(name, frozenVariable(rounded(readFinite(source, name), name, dtype), shape));
    }
    return parameters;
  } catch (error) {
    disposeParameters(parameters);
    throw error;
  }
}

/** Parameters drawn at random ({@link initialTensors}). */
export function randomParameters(config: MambaConfig, seed: number, dtype: WeightDtype = 'float32'): Parameters {
  return new Map(
    Array.from(initialTensors(config, seed), ({ name, shape, data }) => [
      name,
      frozenVariable(rounded(data, name, dtype), shape),
    ]),
  );
}

export function disposeParameters(parameters: Parameters): void {
  for (const variable of parameters.values()) variable.dispose();
}

/** A parameter's values: a weight matrix's rounded, in place, to the nearest bfloat16, ties to even, where that is asked for. */
function rounded(values: Float32Array, name: string, dtype: WeightDtype): Float32Array {
  if (dtype === 'float32' || !MATRIX.test(name)) return values;
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (const [i, half] of float32ToBfloat16(values).entries()) bits[i] = half << 16;
  return values;
}

/** What is a factor of a matrix product, as most of a model is. */
const MATRIX = /(^|\.)(embeddings|in_proj|x_proj|dt_proj|out_proj|lm_head)\.weight$/;

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
