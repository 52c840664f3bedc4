// SPDX-License-Identifier: Apache-2.0
/** The depthwise causal convolution and its gradients as plain float64 loops (native/include/causal_conv1d.h). */
import { silu, siluDerivative } from './softplus_silu.ts';

export interface CausalConv1dProblem {
  batch: number;
  seqlen: number;
  dInner: number;
  dConv: number;
  x: ArrayLike<number>;
  weight: ArrayLike<number>;
  bias?: ArrayLike<number>;
  seqIdx?: ArrayLike<number>;
  convState?: ArrayLike<number>;
  silu: boolean;
}

/** The input at time t (negative: from convState) as position `reader` sees it: zero when it belongs to another document. */
function tap(p: CausalConv1dProblem, b: number, t: number, reader: number, c: number): number {
  if (p.seqIdx && p.seqIdx[b * p.seqlen + Math.max(t, 0)] !== p.seqIdx[b * p.seqlen + reader]) return 0;
  return inputAt(p, b, t, c);
}

function inputAt(p: CausalConv1dProblem, b: number, t: number, c: number): number {
  if (t >= 0) return p.x[(b * p.seqlen + t) * p.dInner + c] as number;
  return p.convState ? (p.convState[(b * (p.dConv - 1) + p.dConv - 1 + t) * p.dInner + c] as number) : 0;
}

function preActivation(p: CausalConv1dProblem, b: number, t: number, c: number): number {
  let sum = p.bias ? (p.bias[c] as number) : 0;
  for (let k = 0; k < p.dConv; k++)
    sum += (p.weight[c * p.dConv + k] as number) * tap(p, b, t - (p.dConv - 1) + k, t, c);
  return sum;
}

export function causalConv1d(p: CausalConv1dProblem): { y: Float64Array; lastConvState: Float64Array } {
  const y = new Float64Array(p.batch * p.seqlen * p.dInner);
  const lastConvState = new Float64Array(p.batch * (p.dConv - 1) * p.dInner);
  for (let b = 0; b < p.batch; b++) {
    for (let c = 0; c < p.dInner; c++) {
      for (let t = 0; t < p.seqlen; t++) {
        const pre = preActivation(p, b, t, c);
        y[(b * p.seqlen + t) * p.dInner + c] = p.silu ? silu(pre) : pre;
      }
      for (let k = 0; k < p.dConv - 1; k++) {
        lastConvState[(b * (p.dConv - 1) + k) * p.dInner + c] = inputAt(p, b, p.seqlen - (p.dConv - 1) + k, c);
      }
    }
  }
  return { y, lastConvState };
}

/** Gradients of sum(dy * y). */
export function causalConv1dGradients(
  p: CausalConv1dProblem,
  dy: ArrayLike<number>,
): { x: Float64Array; weight: Float64Array; bias: Float64Array } {
  const g = {
    x: new Float64Array(p.batch * p.seqlen * p.dInner),
    weight: new Float64Array(p.dInner * p.dConv),
    bias: new Float64Array(p.dInner),
  };
  for (let b = 0; b < p.batch; b++) {
    for (let t = 0; t < p.seqlen; t++) {
      for (let c = 0; c < p.dInner; c++) {
        const upstream = dy[(b * p.seqlen + t) * p.dInner + c] as number;
        const dpre = p.silu ? upstream * siluDerivative(preActivation(p, b, t, c)) : upstream;
        g.bias[c] = (g.bias[c] as number) + dpre;
        for (let k = 0; k < p.dConv; k++) {
          const source = t - (p.dConv - 1) + k;
          const w = c * p.dConv + k;
          g.weight[w] = (g.weight[w] as number) + dpre * tap(p, b, source, t, c);
          const visible = source >= 0 && (!p.seqIdx || p.seqIdx[b * p.seqlen + source] === p.seqIdx[b * p.seqlen + t]);
          if (!visible) continue;
          const i = (b * p.seqlen + source) * p.dInner + c;
          g.x[i] = (g.x[i] as number) + dpre * (p.weight[w] as number);
        }
      }
    }
  }
  return g;
}
