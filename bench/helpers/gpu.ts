// SPDX-License-Identifier: Apache-2.0
/** The GPU's ceilings, and the least time that a LoRA train step can take by them. */
import * as tf from '@tensorflow/tfjs-core';
import type { DeviceBackend } from '../../src/backends/device_backend.ts';
import type { MambaConfig } from '../../src/model/config.ts';
import { digits, timeOnDevice } from './report.ts';

/** Bytes a second, read and written, of an elementwise op over two arrays of 256 MiB. */
export function measureCopyBytes(backend: DeviceBackend): number {
  const elements = 1 << 26;
  const x = tf.zeros([elements]);
  const seconds = timeOnDevice(backend, () => tf.neg(x).dispose());
  x.dispose();
  return (2 * 4 * elements) / seconds;
}

/** Operations a second, at the current matmul precision, of a product of in_proj's shape: [8192, 768] x [768, 3072]. */
export function measureProduct(backend: DeviceBackend): number {
  const [rows, inner, columns] = [8192, 768, 3072] as const;
  const a = tf.randomUniform([rows, inner], -1, 1);
  const b = tf.randomUniform([inner, columns], -1, 1);
  const seconds = timeOnDevice(backend, () => tf.matMul(a, b).dispose());
  tf.dispose([a, b]);
  return (2 * rows * inner * columns) / seconds;
}

/** Columns of {@link gpuRow}. The peers' times are of eager calls: the small ones carry the cost of launching. */
export const GPU_COLUMNS = ['shape', 'pass', 'µs', 'floor by memory, µs', 'share of it', 'peer, µs', 'ratio'];

/** One pass of a kernel beside its least time and the peer's microseconds. */
export function gpuRow(shape: string, pass: string, seconds: number, floor: number, peer: number): (string | number)[] {
  return [
    shape,
    pass,
    digits(1e6 * seconds),
    digits(1e6 * floor),
    `${((100 * floor) / seconds).toFixed(0)} %`,
    peer,
    digits(peer / (1e6 * seconds)),
  ];
}

export interface StepWork {
  /** Of the products with weights, a multiply-add being two. The frozen weights need no gradient: forward and dx alone. */
  operations: number;
  /** That the scan must move: u, delta, z, out forward; u, delta, z, dout, du, ddelta, dz backward. */
  scanBytes: number;
  /** That norms, convolutions and the projections' inputs and outputs must move, each tensor once an op. */
  otherBytes: number;
}

/** What one step of a shape must do at the least, without checkpointing. */
export function stepWork(config: MambaConfig, batch: number, seqlen: number): StepWork {
  const { hiddenSize: dModel, intermediateSize: dInner, stateSize, timeStepRank, numHiddenLayers, vocabSize } = config;
  const tokens = batch * seqlen;
  const xColumns = timeStepRank + 2 * stateSize;
  const weights = dModel * 2 * dInner + dInner * xColumns + timeStepRank * dInner + dInner * dModel;
  const linears: [input: number, output: number, hasAdapter: boolean][] = [
    [dModel, 2 * dInner, true],
    [dInner, xColumns, true],
    [timeStepRank, dInner, false],
    [dInner, dModel, true],
  ];
  // Forward input and output; backward dy and dx, and the input again for lora_A's gradient.
  const linear = linears.reduce(
    (sum, [input, output, hasAdapter]) => sum + 2 * (input + output) + (hasAdapter ? input : 0),
    0,
  );
  const convolution = 5 * dInner;
  const norm = 8 * dModel;
  return {
    operations: 2 * 2 * tokens * (numHiddenLayers * weights + dModel * vocabSize),
    scanBytes: 4 * tokens * numHiddenLayers * 11 * dInner,
    otherBytes: 4 * tokens * numHiddenLayers * (linear + convolution + norm),
  };
}
