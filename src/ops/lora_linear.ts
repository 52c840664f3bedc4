// SPDX-License-Identifier: Apache-2.0
/**
 * A linear layer with an optional low-rank adapter (Hu et al. 2021, section 4.1); answers to lora.Linear of peft.
 *
 *     y = x W^T + bias + scaling (dropout(x) loraA^T) loraB^T
 */
import type { Scalar, Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../autograd/engine.ts';
import { dropoutMask, MASKS_PER_STEP } from './dropout.ts';
import { isFrozen } from './frozen.ts';
import { checkDtype, checkShape } from './shapes.ts';

export interface LoraLinearInputs {
  /** [..., in], float32. */
  x: Tensor;
  /** [out, in], float32. A frozen variable may be kept packed by the backend. */
  W: Tensor2D;
  /** [out], float32. Default none. */
  bias?: Tensor1D | null;
  /** [r, in], float32; given together with loraB. Default none. */
  loraA?: Tensor2D | null;
  /** [out, r], float32. */
  loraB?: Tensor2D | null;
  /** int32 scalar on the device: the mask's counter is offset + dropoutStep * 2^20. Default none: offset alone. */
  dropoutStep?: Scalar | null;
}

export interface LoraLinearOptions {
  /** Factor of the adapter's term. Default 1. */
  scaling?: number;
  /** Probability that an element of the adapter's input is zeroed, in [0, 1). Default 0. */
  dropout?: number;
  /** Key of the dropout mask, a whole number below 2^53. Default 0. */
  seed?: number;
  /** Counter of the dropout mask, a whole number below 2^53: differs from call to call. Default 0. */
  offset?: number;
}

/**
 * Applies the layer. Differentiable in every input.
 * @returns [..., out]
 * @throws when a shape or dtype is not the documented one, or only one of loraA and loraB is given
 */
export function loraLinear(inputs: LoraLinearInputs, options: LoraLinearOptions = {}): Tensor {
  check(inputs);
  const { scaling = 1, dropout = 0, seed = 0, offset = 0 } = options;
  if (!hasKernel('LoraLinear')) return tf.tidy(() => compositeLinear(inputs, scaling, dropout, seed, offset));
  const attrs = { scaling, dropout, seed, offset, frozen: isFrozen(inputs.W) };
  const [y, xa] = runKernel<Tensor[]>('LoraLinear', { ...inputs }, attrs) as [Tensor, Tensor?];
  xa?.dispose();
  return y;
}

function check({ x, W, bias, loraA, loraB, dropoutStep }: LoraLinearInputs): void {
  const op = 'loraLinear';
  if (W.rank !== 2) throw new Error(`${op}: W must have shape [out, in], got [${W.shape}]`);
  const [out, inFeatures] = W.shape;
  checkShape(op, 'x', x, [...x.shape.slice(0, -1), inFeatures]);
  checkShape(op, 'bias', bias, [out]);
  if (!loraA !== !loraB) throw new Error(`${op}: loraA and loraB must be given together`);
  if (loraA) {
    const r = loraA.shape[0];
    checkShape(op, 'loraA', loraA, [r, inFeatures]);
    checkShape(op, 'loraB', loraB, [out, r]);
  }
  checkDtype(op, 'dropoutStep', dropoutStep, 'int32');
  for (const [name, tensor] of Object.entries({ x, W, bias, loraA, loraB })) checkDtype(op, name, tensor, 'float32');
}

function compositeLinear(
  { x, W, bias, loraA, loraB, dropoutStep }: LoraLinearInputs,
  scaling: number,
  dropout: number,
  seed: number,
  offset: number,
): Tensor {
  const [out, inFeatures] = W.shape;
  const rows = tf.reshape(x, [-1, inFeatures]);
  let y: Tensor = tf.matMul(rows, W, false, true);
  if (bias) y = tf.add(y, bias);
  if (loraA && loraB) {
    const counter = offset + (dropoutStep ? (dropoutStep.dataSync()[0] as number) * MASKS_PER_STEP : 0);
    const dropped = dropout > 0 ? tf.mul(rows, dropoutMask(rows.shape, dropout, seed, counter)) : rows;
    y = tf.add(y, tf.mul(scaling, tf.matMul(tf.matMul(dropped, loraA, false, true), loraB, false, true)));
  }
  return tf.reshape(y, [...x.shape.slice(0, -1), out]);
}
