// SPDX-License-Identifier: Apache-2.0
/** The selective scan and its gradients as plain float64 loops over batch, channel, time and state (native/include/selective_scan.h). */
import { silu, siluDerivative, softplus, softplusDerivative } from './softplus_silu.ts';

export interface SelectiveScanProblem {
  batch: number;
  seqlen: number;
  dInner: number;
  dState: number;
  u: ArrayLike<number>;
  delta: ArrayLike<number>;
  A: ArrayLike<number>;
  B: ArrayLike<number>;
  C: ArrayLike<number>;
  D?: ArrayLike<number>;
  z?: ArrayLike<number>;
  deltaBias?: ArrayLike<number>;
  seqIdx?: ArrayLike<number>;
  h0?: ArrayLike<number>;
  deltaSoftplus: boolean;
}

export interface SelectiveScanGradients {
  u: Float64Array;
  delta: Float64Array;
  A: Float64Array;
  B: Float64Array;
  C: Float64Array;
  D: Float64Array;
  z: Float64Array;
  deltaBias: Float64Array;
  h0: Float64Array;
}

const at = (values: ArrayLike<number> | undefined, i: number, absent = 0) => (values ? (values[i] as number) : absent);

function startsDocument(p: SelectiveScanProblem, b: number, t: number): boolean {
  return t > 0 && at(p.seqIdx, b * p.seqlen + t) !== at(p.seqIdx, b * p.seqlen + t - 1);
}

/** Every state of one channel: states[(t + 1) * dState + n] is h_t[n], the first row h_{-1}. */
function channelStates(p: SelectiveScanProblem, b: number, c: number): Float64Array {
  const { seqlen, dInner, dState } = p;
  const states = new Float64Array((seqlen + 1) * dState);
  for (let n = 0; n < dState; n++) states[n] = at(p.h0, (b * dInner + c) * dState + n);
  for (let t = 0; t < seqlen; t++) {
    const row = b * p.seqlen + t;
    const raw = at(p.delta, row * dInner + c) + at(p.deltaBias, c);
    const delta = p.deltaSoftplus ? softplus(raw) : raw;
    const carry = startsDocument(p, b, t) ? 0 : 1;
    for (let n = 0; n < dState; n++) {
      const decay = Math.exp(delta * at(p.A, c * dState + n));
      const before = carry * (states[t * dState + n] as number);
      states[(t + 1) * dState + n] = decay * before + delta * at(p.B, row * dState + n) * at(p.u, row * dInner + c);
    }
  }
  return states;
}

/** The readout before the gate: sum over n of C_t[n] h_t[n], plus D u_t. */
function readout(p: SelectiveScanProblem, states: Float64Array, b: number, t: number, c: number): number {
  const row = b * p.seqlen + t;
  let sum = at(p.D, c) * at(p.u, row * p.dInner + c);
  for (let n = 0; n < p.dState; n++) sum += at(p.C, row * p.dState + n) * (states[(t + 1) * p.dState + n] as number);
  return sum;
}

export function selectiveScan(p: SelectiveScanProblem): { out: Float64Array; lastState: Float64Array } {
  const { batch, seqlen, dInner, dState } = p;
  const out = new Float64Array(batch * seqlen * dInner);
  const lastState = new Float64Array(batch * dInner * dState);
  for (let b = 0; b < batch; b++) {
    for (let c = 0; c < dInner; c++) {
      const states = channelStates(p, b, c);
      for (let t = 0; t < seqlen; t++) {
        const i = (b * seqlen + t) * dInner + c;
        out[i] = readout(p, states, b, t, c) * (p.z ? silu(at(p.z, i)) : 1);
      }
      lastState.set(states.subarray(seqlen * dState), (b * dInner + c) * dState);
    }
  }
  return { out, lastState };
}

/** Gradients of sum(dout * out) + sum(dlastState * lastState). */
export function selectiveScanGradients(
  p: SelectiveScanProblem,
  dout: ArrayLike<number>,
  dlastState?: ArrayLike<number>,
): SelectiveScanGradients {
  const { batch, seqlen, dInner, dState } = p;
  const g: SelectiveScanGradients = {
    u: new Float64Array(batch * seqlen * dInner),
    delta: new Float64Array(batch * seqlen * dInner),
    A: new Float64Array(dInner * dState),
    B: new Float64Array(batch * seqlen * dState),
    C: new Float64Array(batch * seqlen * dState),
    D: new Float64Array(dInner),
    z: new Float64Array(batch * seqlen * dInner),
    deltaBias: new Float64Array(dInner),
    h0: new Float64Array(batch * dInner * dState),
  };
  const add = (into: Float64Array, i: number, value: number) => {
    into[i] = (into[i] as number) + value;
  };
  for (let b = 0; b < batch; b++) {
    for (let c = 0; c < dInner; c++) {
      const states = channelStates(p, b, c);
      const dh = Float64Array.from({ length: dState }, (_, n) => at(dlastState, (b * dInner + c) * dState + n));
      for (let t = seqlen - 1; t >= 0; t--) {
        const row = b * seqlen + t;
        const i = row * dInner + c;
        const u = at(p.u, i);
        const raw = at(p.delta, i) + at(p.deltaBias, c);
        const delta = p.deltaSoftplus ? softplus(raw) : raw;
        const upstream = at(dout, i);
        const dreadout = upstream * (p.z ? silu(at(p.z, i)) : 1);
        g.z[i] = p.z ? upstream * readout(p, states, b, t, c) * siluDerivative(at(p.z, i)) : 0;
        add(g.D, c, dreadout * u);
        add(g.u, i, dreadout * at(p.D, c));
        const carry = startsDocument(p, b, t) ? 0 : 1;
        let ddelta = 0;
        for (let n = 0; n < dState; n++) {
          const A = at(p.A, c * dState + n);
          const B = at(p.B, row * dState + n);
          const decay = Math.exp(delta * A);
          const before = carry * (states[t * dState + n] as number);
          const dstate = (dh[n] as number) + dreadout * at(p.C, row * dState + n);
          add(g.C, row * dState + n, dreadout * (states[(t + 1) * dState + n] as number));
          add(g.B, row * dState + n, dstate * delta * u);
          add(g.u, i, dstate * delta * B);
          add(g.A, c * dState + n, dstate * before * decay * delta);
          ddelta += dstate * (before * decay * A + B * u);
          dh[n] = dstate * decay * carry;
        }
        const draw = p.deltaSoftplus ? ddelta * softplusDerivative(raw) : ddelta;
        g.delta[i] = draw;
        add(g.deltaBias, c, draw);
      }
      g.h0.set(dh, (b * dInner + c) * dState);
    }
  }
  return g;
}
