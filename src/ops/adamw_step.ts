// SPDX-License-Identifier: Apache-2.0
/**
 * AdamW (Loshchilov and Hutter 2019, algorithm 2) with the clipping of the gradients' global norm folded in: answers to
 * torch.optim.AdamW after torch.nn.utils.clip_grad_norm_. Formula: native/include/adamw_step.h.
 */
import type { Scalar, Tensor, Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../autograd/engine.ts';
import { checkShape } from './shapes.ts';

/** One parameter with what its update needs; all tensors float32 of the parameter's shape. */
export interface AdamwEntry {
  /** Updated in place. */
  parameter: Variable;
  gradient: Tensor;
  /** First moment, zeros before the first step; updated in place. */
  expAvg: Variable;
  /** Second moment, zeros before the first step; updated in place. */
  expAvgSq: Variable;
  learningRate: number;
  /** Decoupled: the parameter shrinks by learningRate * weightDecay. */
  weightDecay: number;
}

export interface AdamwOptions {
  beta1: number;
  beta2: number;
  /** Added to the root of the second moment. */
  eps: number;
  /** 1 for the first step. */
  step: number;
  /**
   * float32 [2], {learning rate of every entry, step}, in place of the numbers: what a recorded step reads at each launch. Only on
   * backends with the fused kernel.
   */
  schedule?: Tensor;
  /** The gradients' global norm. When it is not finite, nothing is updated. */
  norm: Scalar;
  /** Gradients are scaled by min(1, maxGradNorm / (norm + 1e-6)); 0 scales none. */
  maxGradNorm: number;
}

/**
 * The norm of all gradients taken as one vector, summed in float64.
 * @param gradients float32, any shapes
 */
export function globalNorm(gradients: readonly Tensor[]): Scalar {
  if (hasKernel('GlobalNorm')) {
    return runKernel<Scalar>('GlobalNorm', named('gradient', gradients), { count: gradients.length });
  }
  let squares = 0;
  for (const gradient of gradients) for (const value of gradient.dataSync<'float32'>()) squares += value * value;
  return tf.scalar(Math.sqrt(squares));
}

/**
 * Updates all parameters and moments in place, in one call on backends with the kernel.
 * @throws when a tensor's shape is not its parameter's
 */
export function adamwStep(entries: readonly AdamwEntry[], options: AdamwOptions): void {
  for (const { parameter, gradient, expAvg, expAvgSq } of entries) {
    for (const [name, tensor] of Object.entries({ gradient, expAvg, expAvgSq })) {
      checkShape('adamwStep', `${name} of ${parameter.name}`, tensor, parameter.shape);
    }
  }
  if (hasKernel('AdamwStep')) runFused(entries, options);
  else tf.tidy(() => runComposite(entries, options));
}

function runFused(entries: readonly AdamwEntry[], { norm, schedule, ...attrs }: AdamwOptions): void {
  const inputs = {
    ...named(
      'parameter',
      entries.map((entry) => entry.parameter),
    ),
    ...named(
      'gradient',
      entries.map((entry) => entry.gradient),
    ),
    ...named(
      'expAvg',
      entries.map((entry) => entry.expAvg),
    ),
    ...named(
      'expAvgSq',
      entries.map((entry) => entry.expAvgSq),
    ),
    norm,
    schedule,
  };
  runKernel<Tensor[]>('AdamwStep', inputs, {
    ...attrs,
    count: entries.length,
    learningRates: Float32Array.from(entries, (entry) => entry.learningRate),
    weightDecays: Float32Array.from(entries, (entry) => entry.weightDecay),
  });
}

function runComposite(entries: readonly AdamwEntry[], options: AdamwOptions): void {
  const { beta1, beta2, eps, step, maxGradNorm } = options;
  const norm = options.norm.dataSync<'float32'>()[0] ?? Number.NaN;
  if (!Number.isFinite(norm)) return;
  const clip = maxGradNorm > 0 ? Math.min(1, maxGradNorm / (norm + 1e-6)) : 1;
  const correction1 = 1 - beta1 ** step;
  const correction2 = 1 - beta2 ** step;
  for (const { parameter, gradient, expAvg, expAvgSq, learningRate, weightDecay } of entries) {
    const g = tf.mul(gradient, clip);
    const m = tf.add(tf.mul(expAvg, beta1), tf.mul(g, 1 - beta1));
    const v = tf.add(tf.mul(expAvgSq, beta2), tf.mul(tf.square(g), 1 - beta2));
    const root = tf.add(tf.mul(tf.sqrt(v), 1 / Math.sqrt(correction2)), eps);
    const update = tf.mul(tf.div(m, root), learningRate / correction1);
    parameter.assign(tf.sub(tf.mul(parameter, 1 - learningRate * weightDecay), update));
    expAvg.assign(m);
    expAvgSq.assign(v);
  }
}

function named(prefix: string, tensors: readonly Tensor[]): Record<string, Tensor> {
  return Object.fromEntries(tensors.map((tensor, i) => [`${prefix}${i}`, tensor]));
}
