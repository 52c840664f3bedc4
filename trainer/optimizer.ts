// SPDX-License-Identifier: Apache-2.0
/** AdamW over named parameters: its moments, its step counter, and its file. */
import type { Scalar, Tensor, Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { canRecord, overwrite } from '../src/backends/graphs.ts';
import { openSafetensors } from '../src/checkpoint/safetensors.ts';
import type { TensorToWrite } from '../src/checkpoint/safetensors_writer.ts';
import type { TensorSource } from '../src/checkpoint/tensor_source.ts';
import { UserError } from '../src/errors.ts';
import { adamwStep, globalNorm } from '../src/ops/adamw_step.ts';

export interface AdamwSettings {
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
  /** What a parameter's learning rate is multiplied by. Default 1 for all. */
  rateFactor?: (name: string, shape: readonly number[]) => number;
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
  /** Uncounts the last step: its norm was not finite, and nothing has changed. */
  retract(): void;
  /**
   * Sets the parameters alone to those of an optimizer.safetensors.
   * @throws as `restore`
   */
  restoreParameters(path: string): void;
  /**
   * A whole optimizer.safetensors: each parameter under its name, its moments `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`,
   * and `step` (int32).
   */
  tensors(): TensorToWrite[];
  /**
   * Sets parameters, moments and step to those of an optimizer.safetensors, in their own memory.
   * @throws UserError when a tensor is missing or has another shape; nothing has changed then
   */
  restore(path: string): void;
  dispose(): void;
}

/** An AdamW whose moments are zero. */
export function createAdamw(parameters: ReadonlyMap<string, Variable>, settings: AdamwSettings): Optimizer {
  const { beta1, beta2, eps, weightDecay, maxGradNorm, rateFactor = () => 1 } = settings;
  const moments = Array.from(parameters, ([name, parameter]) => ({
    name,
    parameter,
    factor: rateFactor(name, parameter.shape),
    expAvg: zerosVariable(parameter.shape),
    expAvgSq: zerosVariable(parameter.shape),
  }));
  const named = () =>
    new Map(
      moments.flatMap(({ name, parameter, expAvg, expAvgSq }): [string, Variable][] => [
        [name, parameter],
        [`${name}.exp_avg`, expAvg],
        [`${name}.exp_avg_sq`, expAvgSq],
      ]),
    );
  // A recorded step reads the rates of the parameters on the device.
  const factors = new Map(
    [...new Set(moments.map(({ factor }) => factor))].map((factor) => [factor, keptFactor(factor)]),
  );
  let step = 0;
  return {
    get step() {
      return step;
    },
    advance: () => {
      step += 1;
    },
    retract: () => {
      step -= 1;
    },
    update: (gradients, learningRate, schedule) => {
      if (!schedule) step += 1;
      const norm = globalNorm([...gradients.values()]);
      for (const [factor, onDevice] of factors) {
        const entries = moments.flatMap(({ name, factor: own, ...entry }) => {
          const gradient = own === factor ? gradients.get(name) : undefined;
          return gradient ? [{ ...entry, gradient, learningRate: factor * learningRate, weightDecay }] : [];
        });
        const scaled = schedule && (factor === 1 ? schedule : tf.mul(schedule, onDevice));
        adamwStep(entries, { beta1, beta2, eps, step, norm, maxGradNorm, ...(scaled && { schedule: scaled }) });
        if (scaled !== schedule) scaled?.dispose();
      }
      return norm;
    },
    tensors: () => [
      { name: 'step', shape: [], dtype: 'I32', data: () => Int32Array.of(step) },
      ...Array.from(named(), ([name, variable]) => tensorToWrite(name, variable)),
    ],
    restore: (path) => {
      step = readInto(named(), path);
    },
    restoreParameters: (path) => {
      readInto(parameters, path);
    },
    dispose: () => tf.dispose([...factors.values(), ...moments.flatMap(({ expAvg, expAvgSq }) => [expAvg, expAvgSq])]),
  };
}

/** {factor, 1}: what a schedule of {learning rate, step} is multiplied by. */
function keptFactor(factor: number): Tensor {
  return tf.keep(tf.tensor1d([factor, 1]));
}

function zerosVariable(shape: number[]): Variable {
  return tf.tidy(() => tf.variable(tf.zeros(shape), false));
}

/** @returns the file's step */
function readInto(variables: ReadonlyMap<string, Variable>, path: string): number {
  const source = openSafetensors(path);
  try {
    checkTensors(source, variables);
    for (const [name, variable] of variables) setValues(variable, source.readFloat32(name));
    return source.readInt32('step')[0] as number;
  } finally {
    source.close();
  }
}

function checkTensors({ path, entries }: TensorSource, variables: ReadonlyMap<string, Variable>): void {
  for (const [name, { shape }] of variables) {
    const found = entries.get(name)?.shape;
    if (found?.join() === shape.join()) continue;
    throw new UserError(
      `${path}: ${name}: ${found ? `has [${found.join(', ')}]` : 'missing'}, expected [${shape.join(', ')}]; the checkpoint was made for another model or adapter.`,
    );
  }
}

/** Recorded steps read a variable's own memory. */
function setValues(variable: Variable, values: Float32Array): void {
  if (canRecord()) overwrite(variable, values);
  else tf.tidy(() => variable.assign(tf.tensor(values, variable.shape)));
}

function tensorToWrite(name: string, variable: Variable): TensorToWrite {
  return { name, shape: variable.shape, dtype: 'F32', data: () => variable.dataSync<'float32'>() };
}
