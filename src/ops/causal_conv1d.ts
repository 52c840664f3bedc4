// SPDX-License-Identifier: Apache-2.0
/**
 * The depthwise causal convolution of Mamba's mixer with the SiLU behind it; answers to causal_conv1d_ref of Dao-AILab/causal-conv1d.
 *
 *     y_t[c] = silu(bias[c] + sum over k < d_conv of weight[c, k] x_{t - (d_conv - 1) + k}[c])
 */
import type { Tensor, Tensor1D, Tensor2D, Tensor3D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../autograd/engine.ts';
import { checkDtype, checkShape } from './shapes.ts';
import { checkUpdate } from './update_state.ts';

export interface CausalConv1dInputs {
  /** [batch, seqlen, d_inner], float32. */
  x: Tensor3D;
  /** [d_inner, d_conv], float32, 1 <= d_conv <= 8. */
  weight: Tensor2D;
  /** [d_inner], float32. Default none. */
  bias?: Tensor1D | null;
  /** Document of each position [batch, seqlen], int32: taps in another document are zero. Default one document a row. */
  seqIdx?: Tensor2D | null;
  /** The d_conv - 1 inputs before the first position, oldest first: [batch, d_conv - 1, d_inner], float32. Default zeros; no gradient. */
  convState?: Tensor3D | null;
}

export interface CausalConv1dOptions {
  /** Apply SiLU. Default true. */
  silu?: boolean;
  /** Also return the last d_conv - 1 inputs. Default false. */
  returnLastState?: boolean;
  /** Write the last d_conv - 1 inputs over convState. Only on backends with the fused kernel, and without gradients. Default false. */
  updateState?: boolean;
}

export type CausalConv1dResult = {
  /** [batch, seqlen, d_inner] */
  y: Tensor3D;
  /** [batch, d_conv - 1, d_inner], when asked for. */
  lastConvState?: Tensor3D;
};

/**
 * Computes the convolution with the backend's fused kernel, or from tfjs ops where there is none. Differentiable in x, weight and bias.
 * @throws when a shape or dtype is not the documented one
 */
export function causalConv1d(inputs: CausalConv1dInputs, options: CausalConv1dOptions = {}): CausalConv1dResult {
  check(inputs);
  const { silu = true, returnLastState = false, updateState = false } = options;
  if (updateState) checkUpdate('causalConv1d', 'CausalConv1d', inputs.convState);
  if (!hasKernel('CausalConv1d')) return tf.tidy(() => naiveConv(inputs, silu, returnLastState));
  const [y, lastConvState] = runKernel<Tensor[]>(
    'CausalConv1d',
    { ...inputs },
    { silu, returnLastState, updateState },
  ) as [Tensor3D, Tensor3D?];
  return { y, ...(lastConvState && { lastConvState }) };
}

function check({ x, weight, bias, seqIdx, convState }: CausalConv1dInputs): void {
  const op = 'causalConv1d';
  if (x.rank !== 3) throw new Error(`${op}: x must have shape [batch, seqlen, d_inner], got [${x.shape}]`);
  const [batch, seqlen, dInner] = x.shape;
  if (weight.rank !== 2 || weight.shape[1] < 1 || weight.shape[1] > 8) {
    throw new Error(`${op}: weight must have shape [d_inner, d_conv] with d_conv in 1..8, got [${weight.shape}]`);
  }
  const dConv = weight.shape[1];
  checkShape(op, 'weight', weight, [dInner, dConv]);
  checkShape(op, 'bias', bias, [dInner]);
  checkShape(op, 'seqIdx', seqIdx, [batch, seqlen]);
  checkShape(op, 'convState', convState, [batch, dConv - 1, dInner]);
  for (const [name, tensor] of Object.entries({ x, weight, bias, convState })) checkDtype(op, name, tensor, 'float32');
  checkDtype(op, 'seqIdx', seqIdx, 'int32');
}

/** One shifted product a tap. */
function naiveConv(inputs: CausalConv1dInputs, silu: boolean, returnLastState: boolean): CausalConv1dResult {
  const { x, weight, bias, seqIdx, convState } = inputs;
  const [batch, seqlen, dInner] = x.shape;
  const before = weight.shape[1] - 1;
  const padded = tf.concat([convState ?? tf.fill([batch, before, dInner], 0), x], 1);
  const document = seqIdx && tf.concat([tf.tile(tf.slice(seqIdx, [0, 0], [batch, 1]), [1, before]), seqIdx], 1);
  const taps = tf.unstack(weight, 1);
  let y: Tensor | undefined;
  for (const [k, tap] of taps.entries()) {
    let shifted: Tensor = tf.slice(padded, [0, k, 0], [batch, seqlen, dInner]);
    if (document) {
      const same = tf.equal(tf.slice(document, [0, k], [batch, seqlen]), seqIdx as Tensor);
      shifted = tf.mul(shifted, tf.expandDims(tf.cast(same, 'float32'), 2));
    }
    const term = tf.mul(shifted, tap);
    y = y ? tf.add(y, term) : term;
  }
  if (bias) y = tf.add(y as Tensor, bias);
  if (silu) y = tf.mul(y as Tensor, tf.sigmoid(y as Tensor));
  return {
    y: y as Tensor3D,
    ...(returnLastState && { lastConvState: tf.slice(padded, [0, seqlen, 0], [batch, before, dInner]) as Tensor3D }),
  };
}
