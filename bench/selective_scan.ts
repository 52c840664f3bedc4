// SPDX-License-Identifier: Apache-2.0
/**
 * The fused scan with gate, skip and softplus, d_state 16: forward and backward, and their share of the machine's peaks;
 * `--backend=cuda` measures it on the GPU, beside the peer.
 */

import { availableParallelism } from 'node:os';
import type { Tensor1D, Tensor2D, Tensor3D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { valueAndGradients } from '../src/autograd/index.ts';
import type { DeviceBackend } from '../src/backends/device_backend.ts';
import { selectiveScan } from '../src/ops/selective_scan.ts';
import { GPU_COLUMNS, gpuRow, measureCopyBytes } from './helpers/gpu.ts';
import { measurePeak } from './helpers/peak.ts';
import { benchBackend, digits, isOnGpu, printHeader, printTable, timeOnDevice } from './helpers/report.ts';

type Shape = readonly [batch: number, seqlen: number, dInner: number];

const CPU_SHAPES: Shape[] = [
  [4, 64, 384],
  [8, 256, 384],
  [4, 64, 1536],
  [1, 4096, 1536],
];
/** With microseconds of mamba-ssm 2.3.2.post1, forward and backward, on one H100 80GB, 2026-11-23. */
const GPU_SHAPES: [Shape, peer: { forward: number; backward: number }][] = [
  [[4, 64, 1536], { forward: 94, backward: 308 }],
  [[8, 512, 1536], { forward: 240, backward: 561 }],
  [[8, 1024, 1536], { forward: 444, backward: 1132 }],
  [[4, 2048, 1536], { forward: 457, backward: 1088 }],
  [[1, 8192, 1536], { forward: 505, backward: 1154 }],
  [[4, 2048, 5120], { forward: 1446, backward: 3377 }],
];
const D_STATE = 16;

/**
 * Arithmetic of a position, channel and state, a multiply-add being two operations and the exponential about 12 (a polynomial of
 * degree 5 and its reduction). Forward: delta A, exp, h = a h + b, y += C h. Backward: the states again, then dh, dA, dB, dC, ddelta.
 */
const OPERATIONS = { forward: 18, backward: 36 };
/** Tensors [batch, seqlen, d_inner] that must move. Forward: u, delta, z, out. Backward: u, delta, z, dout, du, ddelta, dz. */
const TENSORS = { forward: 4, backward: 7 };

const PASSES = ['forward', 'backward'] as const;

/** Seconds of each pass. */
function measure(backend: DeviceBackend, [batch, seqlen, dInner]: Shape): Record<(typeof PASSES)[number], number> {
  const wide = (): Tensor3D => tf.randomNormal([batch, seqlen, dInner]);
  const narrow = (): Tensor3D => tf.randomNormal([batch, seqlen, D_STATE]);
  const [u, delta, z, B, C] = [wide(), wide(), wide(), narrow(), narrow()];
  const A = tf.tidy(() => tf.neg(tf.exp(tf.randomNormal([dInner, D_STATE])))) as Tensor2D;
  const D = tf.randomNormal([dInner]) as Tensor1D;
  const deltaBias = tf.randomUniform([dInner], -4, -2) as Tensor1D;
  const dout = wide();
  const run = () => selectiveScan({ u, delta, A, B, C, D, z, deltaBias }).out;
  const forward = timeOnDevice(backend, () => run().dispose());
  const both = timeOnDevice(backend, () => {
    tf.tidy(() => {
      const { gradients } = valueAndGradients(run, [u, delta, z, B, C], { upstream: [dout] });
      if (gradients.includes(null)) throw new Error('a gradient is missing');
    });
  });
  tf.dispose([u, delta, z, B, C, A, D, deltaBias, dout]);
  return { forward, backward: both - forward };
}

const trafficOf = ([batch, seqlen, dInner]: Shape, pass: (typeof PASSES)[number]) =>
  batch * seqlen * dInner * TENSORS[pass] * 4;

function onCpu(backend: DeviceBackend): void {
  const peak = measurePeak(availableParallelism());
  const rows = CPU_SHAPES.flatMap((shape) => {
    const seconds = measure(backend, shape);
    const elements = shape[0] * shape[1] * shape[2];
    return PASSES.map((pass) => [
      shape.join('x'),
      pass,
      digits(1e6 * seconds[pass]),
      digits((1e9 * seconds[pass]) / elements),
      `${((100 * elements * D_STATE * OPERATIONS[pass]) / seconds[pass] / peak.flops).toFixed(0)} %`,
      `${((100 * trafficOf(shape, pass)) / seconds[pass] / peak.copyBytes).toFixed(0)} %`,
    ]);
  });
  printTable(['shape', 'pass', 'µs', 'ns an element of u', 'of multiply-add peak', 'of copy bandwidth'], rows);
  console.log(`\npeak: ${digits(peak.flops / 1e9)} GFLOP/s, copy ${digits(peak.copyBytes / 1e9)} GB/s`);
}

function onGpu(backend: DeviceBackend): void {
  const copyBytes = measureCopyBytes(backend);
  const rows = GPU_SHAPES.flatMap(([shape, peer]) => {
    const seconds = measure(backend, shape);
    return PASSES.map((pass) =>
      gpuRow(shape.join('x'), pass, seconds[pass], trafficOf(shape, pass) / copyBytes, peer[pass]),
    );
  });
  printTable(GPU_COLUMNS, rows);
  console.log(`\ncopy ${digits(copyBytes / 1e9)} GB/s`);
}

const backend = await benchBackend();
printHeader('selective_scan: batch x seqlen x d_inner, d_state 16, float32');
if (isOnGpu) onGpu(backend);
else onCpu(backend);
