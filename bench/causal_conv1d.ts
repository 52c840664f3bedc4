// SPDX-License-Identifier: Apache-2.0
/**
 * The fused causal convolution with SiLU, d_conv 4: forward and backward, and their share of the copy bandwidth; `--backend=cuda`
 * measures it on the GPU, beside the peer.
 */
import { availableParallelism } from 'node:os';
import type { Tensor1D, Tensor2D, Tensor3D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { valueAndGradients } from '../src/autograd/index.ts';
import type { DeviceBackend } from '../src/backends/device_backend.ts';
import { causalConv1d } from '../src/ops/causal_conv1d.ts';
import { GPU_COLUMNS, gpuRow, measureCopyBytes } from './helpers/gpu.ts';
import { measurePeak } from './helpers/peak.ts';
import { benchBackend, digits, isOnGpu, printHeader, printTable, timeOnDevice } from './helpers/report.ts';

type Shape = readonly [batch: number, seqlen: number, dInner: number];

const CPU_SHAPES: Shape[] = [
  [4, 64, 384],
  [8, 256, 384],
  [1, 4096, 1536],
];
/** With microseconds of causal-conv1d 1.6.1, forward and backward, on one H100 80GB, 2026-11-23. */
const GPU_SHAPES: [Shape, peer: { forward: number; backward: number }][] = [
  [[4, 64, 1536], { forward: 66, backward: 230 }],
  [[8, 512, 1536], { forward: 112, backward: 277 }],
  [[8, 1024, 1536], { forward: 64, backward: 223 }],
  [[4, 2048, 1536], { forward: 62, backward: 176 }],
  [[1, 8192, 1536], { forward: 60, backward: 218 }],
  [[4, 2048, 5120], { forward: 119, backward: 249 }],
];
/** Tensors [batch, seqlen, d_inner] that must move. Forward: x, y. Backward: x, dy, dx. */
const TENSORS = { forward: 2, backward: 3 };

const PASSES = ['forward', 'backward'] as const;

/** Seconds of each pass. */
function measure(backend: DeviceBackend, shape: Shape): Record<(typeof PASSES)[number], number> {
  const x: Tensor3D = tf.randomNormal([...shape]);
  const dy: Tensor3D = tf.randomNormal([...shape]);
  const weight: Tensor2D = tf.randomNormal([shape[2], 4]);
  const bias: Tensor1D = tf.randomNormal([shape[2]]);
  const run = () => causalConv1d({ x, weight, bias }).y;
  const forward = timeOnDevice(backend, () => run().dispose());
  const both = timeOnDevice(backend, () => {
    tf.tidy(() => {
      const { gradients } = valueAndGradients(run, [x], { upstream: [dy] });
      if (gradients.includes(null)) throw new Error('a gradient is missing');
    });
  });
  tf.dispose([x, dy, weight, bias]);
  return { forward, backward: both - forward };
}

const trafficOf = ([batch, seqlen, dInner]: Shape, pass: (typeof PASSES)[number]) =>
  batch * seqlen * dInner * TENSORS[pass] * 4;

function onCpu(backend: DeviceBackend): void {
  const { copyBytes } = measurePeak(availableParallelism());
  const rows = CPU_SHAPES.flatMap((shape) => {
    const seconds = measure(backend, shape);
    return PASSES.map((pass) => [
      shape.join('x'),
      pass,
      digits(1e6 * seconds[pass]),
      digits((1e9 * seconds[pass]) / (shape[0] * shape[1] * shape[2])),
      `${((100 * trafficOf(shape, pass)) / seconds[pass] / copyBytes).toFixed(0)} %`,
    ]);
  });
  printTable(['shape', 'pass', 'µs', 'ns an element of x', 'of copy bandwidth'], rows);
  console.log(`\npeak: copy ${digits(copyBytes / 1e9)} GB/s`);
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
printHeader('causal_conv1d: batch x seqlen x d_inner, d_conv 4, float32');
if (isOnGpu) onGpu(backend);
else onCpu(backend);
