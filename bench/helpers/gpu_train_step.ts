// SPDX-License-Identifier: Apache-2.0
/** The train step on the GPU beside its floor and the peer, each case in a process of its own; with --profile, kernel by kernel. */
import type * as tf from '@tensorflow/tfjs-core';
import type { MatmulPrecision } from '../../src/backends/precision.ts';
import { setMatmulPrecision } from '../../src/backends/precision.ts';
import { runCase } from './child.ts';
import { measureCopyBytes, measureProduct, stepWork } from './gpu.ts';
import { copiedModel, trainerStep } from './gpu_steps.ts';
import { type KernelTime, profileKernels } from './profile.ts';
import { benchBackend, digits, printHeader, printTable, timeMedian } from './report.ts';
import { parseShape } from './steps.ts';

export interface GpuCase {
  model: string;
  shape: string;
  precision: MatmulPrecision;
  gradientCheckpointing?: boolean;
}

interface Row extends GpuCase {
  /**
   * Milliseconds and peak gigabytes of transformers 5.17 with the kernels of mamba-ssm 2.3.2.post1 and causal-conv1d 1.6.1, torch
   * 2.11, peft 0.21, every LoRA alive, on one H100 80GB, 2026-11-23.
   */
  peer?: { ms: number; gigabytes?: number };
}

const ROWS: Row[] = [
  { model: '130m', shape: '8x1024', precision: 'high', peer: { ms: 123.5, gigabytes: 15.4 } },
  { model: '130m', shape: '4x2048', precision: 'high', peer: { ms: 125.1 } },
  { model: '130m', shape: '4x64', precision: 'high', peer: { ms: 70.8 } },
  { model: '130m', shape: '8x512', precision: 'high', peer: { ms: 82.2 } },
  { model: '130m', shape: '8x1024', precision: 'highest', peer: { ms: 200.6, gigabytes: 15.4 } },
  { model: '130m', shape: '8x1024', precision: 'medium' },
  { model: '1.4b', shape: '4x1024', precision: 'high', peer: { ms: 327.7, gigabytes: 34.8 } },
  { model: '2.8b', shape: '4x1024', precision: 'high', gradientCheckpointing: true },
];

interface Result {
  seconds: number;
  /** Of the least time: products, the scan's memory traffic, the rest's. */
  floors: [products: number, scan: number, other: number];
  /** Bytes in buffers at the highest, of which frozen weights, and adapters with gradients' moments. */
  peakBytes: number;
  weightBytes: number;
  adapterBytes: number;
  /** Copies of weights in another precision. */
  weightCacheBytes: number;
  /** That the process has taken of the card: all of these, what its allocator holds for reuse, CUDA's own. */
  takenBytes: number;
  kernels?: KernelTime[];
}

const isProfile = process.argv.includes('--profile');

export async function measureOnGpu({ model: name, shape, precision, gradientCheckpointing }: GpuCase): Promise<Result> {
  const backend = await benchBackend();
  const { addon, device } = backend;
  setMatmulPrecision(precision);
  const copyBytes = measureCopyBytes(backend);
  const products = measureProduct(backend);
  addon.trim(device);
  const model = copiedModel(name);
  model.gradientCheckpointing = gradientCheckpointing ?? false;
  const [batch, seqlen] = parseShape(shape);
  const { run, parameters, dispose } = trainerStep(model, { batch, seqlen, cudaGraphs: !isProfile });
  addon.resetPeak(device);
  const seconds = timeMedian(run, { warmup: 2, calls: 10, seconds: 1 });
  const { peakBytes, weightCacheBytes } = backend.memoryStats();
  const { memoryBytes, freeBytes } = JSON.parse(addon.describe(device)) as { memoryBytes: number; freeBytes: number };
  const kernels = isProfile ? profileKernels(backend, run) : undefined;
  dispose();
  const { operations, scanBytes, otherBytes } = stepWork(model.config, batch, seqlen);
  return {
    seconds,
    floors: [operations / products, scanBytes / copyBytes, otherBytes / copyBytes],
    peakBytes,
    weightBytes: bytesOf([...model.parameters.values()]),
    adapterBytes: 3 * bytesOf([...parameters.values()]),
    weightCacheBytes,
    takenBytes: memoryBytes - freeBytes,
    kernels,
  };
}

function bytesOf(tensors: readonly tf.Tensor[]): number {
  return tensors.reduce((sum, tensor) => sum + 4 * tensor.size, 0);
}

/** @param script of the benchmark, which runs {@link measureOnGpu} for a case */
export async function printOnGpu(script: string): Promise<void> {
  const only = process.argv.find((argument) => argument.startsWith('--only='))?.slice('--only='.length) ?? '';
  const rows = ROWS.filter(({ model, shape, precision }) => `${model} ${shape} ${precision}`.includes(only));
  await benchBackend();
  printHeader('train step: forward, backward, clipping, AdamW; LoRA r 8 on x_proj, embeddings, in_proj, out_proj');
  const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(2);
  const ms = (seconds: number) => digits(1000 * seconds);
  const results = rows.map((row) => ({ row, result: runCase<Result>(script, row) }));
  const table = results.map(({ row: { model, shape, precision, gradientCheckpointing, peer }, result }) => {
    const { seconds, floors, peakBytes, weightBytes, adapterBytes, weightCacheBytes, takenBytes } = result;
    const [batch, seqlen] = parseShape(shape);
    const floor = floors.reduce((sum, part) => sum + part, 0);
    const rest = peakBytes - weightBytes - adapterBytes;
    return [
      `${model}${gradientCheckpointing ? ', gradient checkpointing' : ''}`,
      shape,
      precision,
      ms(seconds),
      digits((batch * seqlen) / seconds),
      `${ms(floor)} (${floors.map(ms).join(' + ')})`,
      `${((100 * floor) / seconds).toFixed(0)} %`,
      peer ? `${peer.ms} (${(peer.ms / 1000 / seconds).toFixed(1)}x)` : '',
      `${gigabytes(peakBytes)} (${[weightBytes, adapterBytes, rest].map(gigabytes).join(' + ')})`,
      gigabytes(weightCacheBytes),
      gigabytes(takenBytes),
      peer?.gigabytes ?? '',
    ];
  });
  printTable(
    [
      ...['model', 'batch x seqlen', 'matmul_precision', isProfile ? 'ms a step, eager' : 'ms a step', 'tokens/s'],
      ...['floor, ms (products + scan + other)', 'share of it', 'peer, ms'],
      'peak, GB (weights + adapters and moments + the step)',
      ...['copies of weights, GB', 'taken of the card, GB', 'peer, GB'],
    ],
    table,
  );
  for (const { row, result } of results) if (result.kernels) printProfile(row, result.kernels);
}

function printProfile({ model, shape, precision }: GpuCase, kernels: readonly KernelTime[]): void {
  const total = kernels.reduce((sum, { seconds }) => sum + seconds, 0);
  console.log(`\n${model} ${shape} ${precision}: ${digits(1000 * total)} ms in kernels, the host waiting for each`);
  printTable(
    ['kernel and its sizes', 'calls', 'ms', 'us a call', 'share'],
    kernels.map(({ name, calls, seconds }) => [
      name,
      calls,
      (1000 * seconds).toFixed(2),
      digits((1e6 * seconds) / calls),
      `${((100 * seconds) / total).toFixed(1)} %`,
    ]),
  );
}
