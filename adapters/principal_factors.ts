// SPDX-License-Identifier: Apache-2.0
/**
 * First values of A and B that are parts of the base weight, which the weight is then without: PiSSA (Meng et al. 2024: its largest
 * singular values) and OLoRA (Büyükakyüz 2024: the first columns of its QR decomposition). Answers to pissa_init and olora_init of peft.
 */
import { Matrix, QrDecomposition } from 'ml-matrix';
import { ConfigError } from '../src/errors.ts';
import { type Module, matrixShape } from '../src/model/modules.ts';
import type { LoraConfig } from './lora_config.ts';
import type { ModuleShape } from './targets.ts';
import { truncatedSvd } from './truncated_svd.ts';

export type PrincipalInit = 'pissa' | 'olora';

export interface Factors {
  /** [r, in] */
  A: Float32Array;
  /** [out, r] */
  B: Float32Array;
}

export interface WeightPart {
  init: PrincipalInit;
  /** [out, in], row by row. */
  weight: Float32Array;
  shape: readonly [out: number, inFeatures: number];
  r: number;
  scaling: number;
}

/** Whether, and how, a module of an adapter with this config began with a part of its weight. */
export function principalInitOf({ kind }: Pick<Module, 'kind'>, config: LoraConfig): PrincipalInit | null {
  const { initLoraWeights: init } = config;
  return kind !== 'embedding' && (init === 'pissa' || init === 'olora') ? init : null;
}

/** @param weight the base values of the module's weight */
export function weightPart(
  { name, weight: { shape } }: ModuleShape,
  config: LoraConfig,
  init: PrincipalInit,
  weight: Float32Array,
): WeightPart {
  return { init, weight, shape: matrixShape(shape), r: config.rankOf(name), scaling: config.scalingOf(name) };
}

/**
 * The factors that training starts from. The same weight gives the same product B A, whoever computes it: an adapter that began so
 * is read by computing them again.
 */
export function principalFactors(part: WeightPart): Factors {
  return part.init === 'pissa' ? pissa(part) : olora(part);
}

/** The weight without its principal part: W - scaling B A. */
export function residualWeight(
  part: WeightPart,
  { A, B }: Factors = principalFactors(part),
): Float32Array<ArrayBuffer> {
  const [out, inFeatures] = part.shape;
  const residual = new Float32Array(part.weight.length);
  for (let o = 0; o < out; o++) {
    for (let i = 0; i < inFeatures; i++) {
      let sum = 0;
      for (let k = 0; k < part.r; k++) sum += (B[o * part.r + k] as number) * (A[k * inFeatures + i] as number);
      residual[o * inFeatures + i] = (part.weight[o * inFeatures + i] as number) - part.scaling * sum;
    }
  }
  return residual;
}

/** @throws ConfigError when a weight has fewer directions than the rank asks for */
export function checkPrincipalRank(init: PrincipalInit, name: string, shape: readonly number[], r: number): void {
  const most = Math.min(...shape);
  if (r <= most) return;
  throw new ConfigError(
    `init_lora_weights: ${init} takes r directions out of each weight, and ${name} [${shape.join(', ')}] has ${most}, not ${r}; lower r, or give it a rank in rank_pattern.`,
  );
}

function pissa({ weight, shape: [out, inFeatures], r, scaling }: WeightPart): Factors {
  const { U, S, V } = truncatedSvd(weight, out, inFeatures, r);
  const roots = S.map((value) => Math.sqrt(value / scaling));
  return {
    A: Float32Array.from({ length: r * inFeatures }, (_, i) => {
      const k = Math.floor(i / inFeatures);
      return (roots[k] as number) * (V[k]?.[i % inFeatures] as number);
    }),
    B: Float32Array.from(
      { length: out * r },
      (_, i) => (roots[i % r] as number) * (U[i % r]?.[Math.floor(i / r)] as number),
    ),
  };
}

/** Q of the first r columns is the first r columns of Q, and R = Q^T W. */
function olora({ weight, shape: [out, inFeatures], r }: WeightPart): Factors {
  const columns = new Matrix(out, r);
  for (let o = 0; o < out; o++) for (let k = 0; k < r; k++) columns.set(o, k, weight[o * inFeatures + k] as number);
  const Q = new QrDecomposition(columns).orthogonalMatrix;
  const A = new Float64Array(r * inFeatures);
  for (let o = 0; o < out; o++) {
    for (let k = 0; k < r; k++) {
      const q = Q.get(o, k);
      for (let i = 0; i < inFeatures; i++) {
        A[k * inFeatures + i] = (A[k * inFeatures + i] as number) + q * (weight[o * inFeatures + i] as number);
      }
    }
  }
  return {
    A: Float32Array.from(A),
    B: Float32Array.from({ length: out * r }, (_, i) => Q.get(Math.floor(i / r), i % r)),
  };
}
