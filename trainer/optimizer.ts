// SPDX-License-Identifier: Apache-2.0
/** AdamW over named parameters: its moments, its step counter, and its file. */
import type { Scalar, Tensor, Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { TensorToWrite } from '../src/checkpoint/safetensors_writer.ts';
import { adamwStep, globalNorm } from '../src/ops/adamw_step.ts';

export interface AdamwSettings {
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
  /** Largest global norm of the gradients; 0 clips none. */
  maxGradNorm: number;
}

/** An optimizer's state; dispose of it when done. The parameters stay their owner's. */
export interface Optimizer {
  /** Steps taken. */
  readonly step: number;
  /**
   * One step for all parameters, in place. When the norm is not finite no parameter changes.
   * @param gradients by parameter name; a parameter without one keeps its value and moments
   * @param schedule float32 [2], {learning rate, step}, that counts in place of the rate and of `step`; a recorded step's
   * @returns the gradients' global norm before clipping
   */
  update(gradients: ReadonlyMap<string, Tensor>, learningRate: number, schedule?: Tensor): Scalar;
  /** Counts a step that a launched recording has taken. */
  advance(): void;
  /** `<parameter>.exp_avg`, `<parameter>.exp_avg_sq` for each parameter, and `step` (int32): a whole optimizer.safetensors. */
  tensors(): TensorToWrite[];
  dispose(): void;
}

/** An AdamW whose moments are zero. */
export function createAdamw(parameters: ReadonlyMap<string, Variable>, settings: AdamwSettings): Optimizer {
  const { beta1, beta2, eps, weightDecay, maxGradNorm } = settings;
  const moments = Array.from(parameters, ([name, parameter]) => ({
    name,
    parameter,
    expAvg: zerosVariable(parameter.shape),
    expAvgSq: zerosVariable(parameter.shape),
  }));
  let step = 0;
  return {
    get step() {
      return step;
    },
    advance: () => {
      step += 1;
    },
    update: (gradients, learningRate, schedule) => {
      if (!schedule) step += 1;
      const norm = globalNorm([...gradients.values()]);
      const entries = moments.flatMap(({ name, ...entry }) => {
        const gradient = gradients.get(name);
        return gradient ? [{ ...entry, gradient, learningRate, weightDecay }] : [];
      });
      adamwStep(entries, { beta1, beta2, eps, step, norm, maxGradNorm, ...(schedule && { schedule }) });
      return norm;
    },
    tensors: () => [
      { name: 'step', shape: [], dtype: 'I32', data: () => Int32Array.of(step) },
      ...moments.flatMap(({ name, expAvg, expAvgSq }) => [
        tensorToWrite(`${name}.exp_avg`, expAvg),
        tensorToWrite(`${name}.exp_avg_sq`, expAvgSq),
      ]),
    ],
    dispose: () => tf.dispose(moments.flatMap(({ expAvg, expAvgSq }) => [expAvg, expAvgSq])),
  };
}

function zerosVariable(shape: number[]): Variable {
  return tf.tidy(() => tf.variable(tf.zeros(shape), false));
}

function tensorToWrite(name: string, variable: Variable): TensorToWrite {
  return { name, shape: variable.shape, dtype: 'F32', data: () => variable.dataSync<'float32'>() };
}
