// SPDX-License-Identifier: Apache-2.0
/** Runs an op forward and backward on the selected backend and reads everything back, watching for leaks. */
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { valueAndGradients } from '../../src/autograd/index.ts';
import { expectNoLeak } from './memory.ts';
import type { Operand } from './random_tensors.ts';
import { toTensor } from './random_tensors.ts';

export type Numbers = Float32Array | Int32Array | Uint8Array;

export interface OpRun {
  outputs: Numbers[];
  /** Of the inputs that were asked for. */
  gradients: Record<string, Numbers>;
}

/**
 * @param inputs operands by name
 * @param wanted names of the inputs whose gradients are wanted
 * @param run the op; gets the operands as tensors
 * @param upstream gradient of each output of `run`
 */
export function runWithGradients(
  inputs: Record<string, Operand>,
  wanted: readonly string[],
  run: (tensors: Record<string, Tensor>) => Tensor[],
  upstream: readonly Operand[],
): OpRun {
  return expectNoLeak(
    () =>
      tf.tidy(() => {
        const tensors = Object.fromEntries(Object.entries(inputs).map(([name, operand]) => [name, toTensor(operand)]));
        const leaves = wanted.map((name) => tensors[name] as Tensor);
        const { value, gradients } = valueAndGradients(() => run(tensors), leaves, {
          upstream: upstream.map(toTensor),
        });
        return {
          outputs: value.map((tensor) => tensor.dataSync()),
          gradients: Object.fromEntries(wanted.map((name, i) => [name, readGradient(name, gradients[i])])),
        };
      }) as unknown as OpRun,
  );
}

function readGradient(name: string, gradient: Tensor | null | undefined): Numbers {
  if (!gradient) throw new Error(`no gradient reached ${name}`);
  return gradient.dataSync();
}
