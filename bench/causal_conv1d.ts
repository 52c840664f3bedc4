// SPDX-License-Identifier: Apache-2.0
/** The fused causal convolution with SiLU, d_conv 4: forward and backward, and their share of the copy bandwidth. */
import { availableParallelism } from 'node:os';
import type { Tensor1D, Tensor2D, Tensor3D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { valueAndGradients } from '../src/autograd/index.ts';
import { causalConv1d } from '../src/ops/causal_conv1d.ts';
import { measurePeak } from './helpers/peak.ts';
import { digits, nativeBackend, printHeader, printTable, timeMedian } from './helpers/report.ts';

const SHAPES = [
  [4, 64, 384],
  [8, 256, 384],
  [1, 4096, 1536],
] as const;
/** Tensors [batch, seqlen, d_inner] that must move. Forward: x, y. Backward: x, dy, dx. */
const TENSORS = { forward: 2, backward: 3 };

printHeader('causal_conv1d: batch x seqlen x d_inner, d_conv 4, float32');
await nativeBackend();
const peak = measurePeak(availableParallelism());
const rows: (string | number)[][] = [];
for (const [batch, seqlen, dInner] of SHAPES) {
  const x: Tensor3D = tf.randomNormal([batch, seqlen, dInner]);
  const dy: Tensor3D = tf.randomNormal([batch, seqlen, dInner]);
  const weight: Tensor2D = tf.randomNormal([dInner, 4]);
  const bias: Tensor1D = tf.randomNormal([dInner]);
  const run = () => causalConv1d({ x, weight, bias }).y;
  const forward = timeMedian(() => run().dispose());
  const both = timeMedian(() => {
    tf.tidy(() => {
      const { gradients } = valueAndGradients(run, [x], { upstream: [dy] });
      if (gradients.includes(null)) throw new Error('a gradient is missing');
    });
  });
  const elements = batch * seqlen * dInner;
  for (const [name, seconds] of [
    ['forward', forward],
    ['backward', both - forward],
  ] as const) {
    const traffic = (elements * TENSORS[name] * 4) / seconds / peak.copyBytes;
    rows.push([
      `${batch}x${seqlen}x${dInner}`,
      name,
      digits(1e6 * seconds),
      digits((1e9 * seconds) / elements),
      `${(100 * traffic).toFixed(0)} %`,
    ]);
  }
  tf.dispose([x, dy, weight, bias]);
}
printTable(['shape', 'pass', 'µs', 'ns an element of x', 'of copy bandwidth'], rows);
console.log(`\npeak: copy ${digits(peak.copyBytes / 1e9)} GB/s`);
