// SPDX-License-Identifier: Apache-2.0
/** A linear layer with a low-rank adapter and its gradients in float64 (native/include/lora_linear.h). */
import { dropoutMask } from './dropout.ts';
import { product } from './matrix.ts';

export interface LoraLinearProblem {
  rows: number;
  inFeatures: number;
  outFeatures: number;
  /** 0: no adapter. */
  r: number;
  x: ArrayLike<number>;
  W: ArrayLike<number>;
  bias?: ArrayLike<number>;
  loraA?: ArrayLike<number>;
  loraB?: ArrayLike<number>;
  scaling: number;
  dropout: number;
  seed: number;
  offset: number;
}

export interface LoraLinearGradients {
  x: Float64Array;
  W: Float64Array;
  bias: Float64Array;
  loraA: Float64Array;
  loraB: Float64Array;
}

function masks(p: LoraLinearProblem): Float64Array {
  const size = p.rows * p.inFeatures;
  return p.dropout > 0 ? dropoutMask(size, p.dropout, p.seed, p.offset) : new Float64Array(size).fill(1);
}

export function loraLinear(p: LoraLinearProblem): Float64Array {
  const { rows, inFeatures, outFeatures, r } = p;
  const y = product(p.x, p.W, [rows, inFeatures, outFeatures], { b: true });
  for (let i = 0; i < y.length; i++) y[i] = (y[i] as number) + (p.bias ? (p.bias[i % outFeatures] as number) : 0);
  if (!p.loraA || !p.loraB) return y;
  const dropped = masks(p).map((keep, i) => keep * (p.x[i] as number));
  const low = product(dropped, p.loraA, [rows, inFeatures, r], { b: true });
  const update = product(low, p.loraB, [rows, r, outFeatures], { b: true });
  return y.map((value, i) => value + p.scaling * (update[i] as number));
}

/** Gradients of sum(dy * y). */
export function loraLinearGradients(p: LoraLinearProblem, dy: ArrayLike<number>): LoraLinearGradients {
  const { rows, inFeatures, outFeatures, r } = p;
  const bias = new Float64Array(outFeatures);
  for (let i = 0; i < rows * outFeatures; i++)
    bias[i % outFeatures] = (bias[i % outFeatures] as number) + (dy[i] as number);
  const x = product(dy, p.W, [rows, outFeatures, inFeatures]);
  const W = product(dy, p.x, [outFeatures, rows, inFeatures], { a: true });
  if (!p.loraA || !p.loraB) return { x, W, bias, loraA: new Float64Array(0), loraB: new Float64Array(0) };
  const mask = masks(p);
  const dropped = mask.map((keep, i) => keep * (p.x[i] as number));
  const low = product(dropped, p.loraA, [rows, inFeatures, r], { b: true });
  const dlow = product(dy, p.loraB, [rows, outFeatures, r]).map((value) => value * p.scaling);
  const ddropped = product(dlow, p.loraA, [rows, r, inFeatures]);
  return {
    x: x.map((value, i) => value + (mask[i] as number) * (ddropped[i] as number)),
    W,
    bias,
    loraA: product(dlow, dropped, [r, rows, inFeatures], { a: true }),
    loraB: product(dy, low, [outFeatures, rows, r], { a: true }).map((value) => value * p.scaling),
  };
}
