// SPDX-License-Identifier: Apache-2.0
/** The scalar functions of Mamba's mixer and their derivatives, in float64. */

export function sigmoid(x: number): number {
  return x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x));
}

export function silu(x: number): number {
  return x * sigmoid(x);
}

export function siluDerivative(x: number): number {
  const s = sigmoid(x);
  return s * (1 + x * (1 - s));
}

/** log(1 + e^x), and x itself above the threshold 20 as in torch. */
export function softplus(x: number): number {
  return x > 20 ? x : Math.log1p(Math.exp(x));
}

export function softplusDerivative(x: number): number {
  return x > 20 ? 1 : sigmoid(x);
}
