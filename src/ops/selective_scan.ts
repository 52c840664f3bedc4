// SPDX-License-Identifier: Apache-2.0
/**
 * The selective scan of Mamba (Gu and Dao 2023, section 3.2, algorithm 2); answers to selective_scan_ref of state-spaces/mamba.
 *
 *     delta' = softplus(delta + deltaBias)                    when deltaSoftplus, with the threshold 20; else delta + deltaBias
 *     h_t    = exp(delta'_t A) h_{t-1} + delta'_t B_t u_t     h: [batch, d_inner, d_state]
 *     out_t  = (sum over d_state of C_t h_t + D u_t) silu(z_t)
 */
import type { Tensor, Tensor1D, Tensor2D, Tensor3D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../autograd/engine.ts';
import { needsGradient } from '../autograd/tape.ts';
import { documentStarts } from './seq_idx.ts';
import { checkDtype, checkShape } from './shapes.ts';
import { checkUpdate } from './update_state.ts';

export interface SelectiveScanInputs {
  /** Scan input [batch, seqlen, d_inner], float32. */
  u: Tensor3D;
  /** Step size [batch, seqlen, d_inner], float32; raw when `deltaSoftplus`. */
  delta: Tensor3D;
  /** [d_inner, d_state], float32, negative for a stable state: -exp(A_log). */
  A: Tensor2D;
  /** [batch, seqlen, d_state], float32. */
  B: Tensor3D;
  /** [batch, seqlen, d_state], float32. */
  C: Tensor3D;
  /** Skip weight [d_inner], float32. Default none. */
  D?: Tensor1D | null;
  /** Gate [batch, seqlen, d_inner], float32. Default none. */
  z?: Tensor3D | null;
  /** [d_inner], float32. Default none. */
  deltaBias?: Tensor1D | null;
  /** Document of each position [batch, seqlen], int32: the state starts from zero where it changes. Default one document a row. */
  seqIdx?: Tensor2D | null;
  /** State before the first position [batch, d_inner, d_state], float32. Default zero. */
  h0?: Tensor3D | null;
}

export interface SelectiveScanOptions {
  /** Apply softplus to delta + deltaBias. Default true. */
  deltaSoftplus?: boolean;
  /** Also return the state after the last position. Default false. */
  returnLastState?: boolean;
  /** Write the state after the last position over h0. Only on backends with the fused kernel, and without gradients. Default false. */
  updateState?: boolean;
}

export type SelectiveScanResult = {
  /** [batch, seqlen, d_inner] */
  out: Tensor3D;
  /** [batch, d_inner, d_state], when asked for. */
  lastState?: Tensor3D;
};

/**
 * Computes the selective scan with the backend's fused kernel, or from tfjs ops where there is none. Differentiable in every
 * float32 input.
 * @throws when a shape or dtype is not the documented one
 */
export function selectiveScan(inputs: SelectiveScanInputs, options: SelectiveScanOptions = {}): SelectiveScanResult {
  check(inputs);
  const { deltaSoftplus = true, returnLastState = false, updateState = false } = options;
  if (updateState) checkUpdate('selectiveScan', 'SelectiveScan', inputs.h0);
  if (!hasKernel('SelectiveScan')) return tf.tidy(() => naiveScan(inputs, deltaSoftplus, returnLastState));
  const saveCheckpoints = Object.values(inputs).some((input) => needsGradient(input as Tensor | null | undefined));
  const outputs = runKernel<Tensor[]>(
    'SelectiveScan',
    { ...inputs },
    { deltaSoftplus, returnLastState, updateState, saveCheckpoints },
  );
  if (saveCheckpoints) outputs.pop()?.dispose();
  const [out, lastState] = outputs as [Tensor3D, Tensor3D | undefined];
  return { out, ...(lastState && { lastState }) };
}

function check({ u, delta, A, B, C, D, z, deltaBias, seqIdx, h0 }: SelectiveScanInputs): void {
  const op = 'selectiveScan';
  if (u.rank !== 3) throw new Error(`${op}: u must have shape [batch, seqlen, d_inner], got [${u.shape}]`);
  const [batch, seqlen, dInner] = u.shape;
  if (A.rank !== 2) throw new Error(`${op}: A must have shape [d_inner, d_state], got [${A.shape}]`);
  const dState = A.shape[1];
  checkShape(op, 'delta', delta, [batch, seqlen, dInner]);
  checkShape(op, 'A', A, [dInner, dState]);
  checkShape(op, 'B', B, [batch, seqlen, dState]);
  checkShape(op, 'C', C, [batch, seqlen, dState]);
  checkShape(op, 'D', D, [dInner]);
  checkShape(op, 'z', z, [batch, seqlen, dInner]);
  checkShape(op, 'deltaBias', deltaBias, [dInner]);
  checkShape(op, 'seqIdx', seqIdx, [batch, seqlen]);
  checkShape(op, 'h0', h0, [batch, dInner, dState]);
  for (const [name, tensor] of Object.entries({ u, delta, A, B, C, D, z, deltaBias, h0 }))
    checkDtype(op, name, tensor, 'float32');
  checkDtype(op, 'seqIdx', seqIdx, 'int32');
}

/** The recurrence as written above, one position at a time. */
function naiveScan(inputs: SelectiveScanInputs, deltaSoftplus: boolean, returnLastState: boolean): SelectiveScanResult {
  const { u, A, B, C, D, z, deltaBias, seqIdx, h0 } = inputs;
  const [batch, seqlen, dInner] = u.shape;
  const dState = A.shape[1];
  const raw = deltaBias ? tf.add(inputs.delta, deltaBias) : inputs.delta;
  const deltas = unstackTime(deltaSoftplus ? tf.softplus(raw) : raw);
  const us = unstackTime(u);
  const Bs = unstackTime(B);
  const Cs = unstackTime(C);
  const starts = seqIdx && unstackTime(documentStarts(seqIdx, 0));
  let h: Tensor = h0 ?? tf.fill([batch, dInner, dState], 0);
  const outs: Tensor[] = [];
  for (let t = 0; t < seqlen; t++) {
    if (starts) h = tf.mul(h, tf.reshape(tf.sub(1, starts[t] as Tensor), [batch, 1, 1]));
    const delta = tf.expandDims(deltas[t] as Tensor, 2);
    const drive = tf.mul(tf.mul(delta, tf.expandDims(us[t] as Tensor, 2)), tf.expandDims(Bs[t] as Tensor, 1));
    h = tf.add(tf.mul(tf.exp(tf.mul(delta, A)), h), drive);
    outs.push(tf.sum(tf.mul(h, tf.expandDims(Cs[t] as Tensor, 1)), 2));
  }
  let out: Tensor = tf.stack(outs, 1);
  if (D) out = tf.add(out, tf.mul(u, D));
  if (z) out = tf.mul(out, tf.mul(z, tf.sigmoid(z)));
  return { out: out as Tensor3D, ...(returnLastState && { lastState: h as Tensor3D }) };
}

/** The positions of axis 1, by halves: backends that read the whole operand for each slice do so log2(seqlen) times only. */
function unstackTime(x: Tensor): Tensor[] {
  const seqlen = x.shape[1] ?? 0;
  if (seqlen <= 8) return tf.unstack(x, 1);
  const half = seqlen >> 1;
  return tf.split(x, [half, seqlen - half], 1).flatMap(unstackTime);
}
