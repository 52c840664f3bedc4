// SPDX-License-Identifier: Apache-2.0
/** AdamW with decoupled weight decay and global-norm clipping in float64 (native/include/adamw_step.h). */

export interface AdamwGroup {
  parameter: Float64Array;
  gradient: ArrayLike<number>;
  expAvg: Float64Array;
  expAvgSq: Float64Array;
  learningRate: number;
  weightDecay: number;
}

export interface AdamwOptions {
  beta1: number;
  beta2: number;
  eps: number;
  /** 1 for the first. */
  step: number;
  /** Norm of all gradients; with maxGradNorm > 0 they are scaled to at most that. */
  norm: number;
  maxGradNorm: number;
}

export function globalNorm(gradients: ArrayLike<number>[]): number {
  let squares = 0;
  for (const gradient of gradients) for (let i = 0; i < gradient.length; i++) squares += (gradient[i] as number) ** 2;
  return Math.sqrt(squares);
}

/** Updates every group in place; nothing when the norm is not finite. */
export function adamwStep(groups: AdamwGroup[], { beta1, beta2, eps, step, norm, maxGradNorm }: AdamwOptions): void {
  if (!Number.isFinite(norm)) return;
  const clip = maxGradNorm > 0 ? Math.min(1, maxGradNorm / (norm + 1e-6)) : 1;
  for (const { parameter, gradient, expAvg, expAvgSq, learningRate, weightDecay } of groups) {
    for (let i = 0; i < parameter.length; i++) {
      const g = (gradient[i] as number) * clip;
      const m = beta1 * (expAvg[i] as number) + (1 - beta1) * g;
      const v = beta2 * (expAvgSq[i] as number) + (1 - beta2) * g * g;
      const decayed = (parameter[i] as number) * (1 - learningRate * weightDecay);
      expAvg[i] = m;
      expAvgSq[i] = v;
      parameter[i] = decayed - (learningRate * (m / (1 - beta1 ** step))) / (Math.sqrt(v / (1 - beta2 ** step)) + eps);
    }
  }
}
