// SPDX-License-Identifier: Apache-2.0
/** The fused scan with gate, skip and softplus, d_state 16: forward and backward, and their share of the machine's peaks. */

import { availableParallelism } from 'node:os';
import type { Tensor1D, Tensor2D, Tensor3D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { valueAndGradients } from '../src/autograd/index.ts';
import { selectiveScan } from '../src/ops/selective_scan.ts';
import { measurePeak } from './helpers/peak.ts';
import { digits, nativeBackend, printHeader, printTable, timeMedian } from './helpers/report.ts';

const SHAPES = [
  [4, 64, 384],
  [8, 256, 384],
  [4, 64, 1536],
  [1, 4096, 1536],
] as const;
const D_STATE = 16;

/**
 * Arithmetic of a position, channel and state, a multiply-add being two operations and the exponential about 12 (a polynomial of
 * degree 5 and its reduction). Forward: delta A, exp, h = a h + b, y += C h. Backward: the states again, then dh, dA, dB, dC, ddelta.
 */
const OPERATIONS = { forward: 18, backward: 36 };
/** Tensors [batch, seqlen, d_inner] that must move. Forward: u, delta, z, out. Backward: u, delta, z, dout, du, ddelta, dz. */
const TENSORS = { forward: 4, backward: 7 };

printHeader('selective_scan: batch x seqlen x d_inner, d_state 16, float32');
await nativeBackend();
const peak = measurePeak(availableParallelism());
const rows: (string | number)[][] = [];
for (const [batch, seqlen, dInner] of SHAPES) {
  const wide = (): Tensor3D => tf.randomNormal([batch, seqlen, dInner]);
  const narrow = (): Tensor3D => tf.randomNormal([batch, seqlen, D_STATE]);
  const [u, delta, z, B, C] = [wide(), wide(), wide(), narrow(), narrow()];
  const A = tf.tidy(() => tf.neg(tf.exp(tf.randomNormal([dInner, D_STATE])))) as Tensor2D;
  const D = tf.randomNormal([dInner]) as Tensor1D;
  const deltaBias = tf.randomUniform([dInner], -4, -2) as Tensor1D;
  const dout = wide();
  const run = () => selectiveScan({ u, delta, A, B, C, D, z, deltaBias }).out;
  const forward = timeMedian(() => run().dispose());
  const both = timeMedian(() => {
    tf.tidy(() => {
      const { gradients } = valueAndGradients(run, [u, delta, z, B, C], { upstream: [dout] });
      if (gradients.includes(null)) throw new Error('a gradient is missing');
    });
  });
  const elements = batch * seqlen * dInner;
  for (const [name, seconds] of [
    ['forward', forward],
    ['backward', both - forward],
  ] as const) {
    const arithmetic = (elements * D_STATE * OPERATIONS[name]) / seconds / peak.flops;
    const traffic = (elements * TENSORS[name] * 4) / seconds / peak.copyBytes;
    rows.push([
      `${batch}x${seqlen}x${dInner}`,
      name,
      digits(1e6 * seconds),
      digits((1e9 * seconds) / elements),
      `${(100 * arithmetic).toFixed(0)} %`,
      `${(100 * traffic).toFixed(0)} %`,
    ]);
  }
  tf.dispose([u, delta, z, B, C, A, D, deltaBias, dout]);
}
printTable(['shape', 'pass', 'µs', 'ns an element of u', 'of multiply-add peak', 'of copy bandwidth'], rows);
console.log(`\npeak: ${digits(peak.flops / 1e9)} GFLOP/s, copy ${digits(peak.copyBytes / 1e9)} GB/s`);
