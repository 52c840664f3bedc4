// SPDX-License-Identifier: Apache-2.0
/**
 * Seconds and peak memory of one LoRA train step, each case in a process of its own. `--peer` times transformers and peft beside
 * it (bench/peer/peer_step.py), but for 8x256, which takes them minutes a step: `--peer=all` times that too. `--backend=cuda` measures
 * the GPU's cases instead, those whose name holds TEXT with `--only=TEXT`, kernel by kernel with `--profile`.
 */

import { answer, givenCase, runCase } from './helpers/child.ts';
import { type GpuCase, measureOnGpu, printOnGpu } from './helpers/gpu_train_step.ts';
import { runPython } from './helpers/python.ts';
import { digits, isOnGpu, nativeBackend, printHeader, printTable, timeMedian } from './helpers/report.ts';
import { benchModel, parseShape, trainStep } from './helpers/steps.ts';

interface Case {
  model: string;
  shape: string;
  gradientCheckpointing?: boolean;
}

interface Result {
  seconds: number;
  peakRss: number;
  /** Highest bytes in buffers of the device at once. */
  peakBytes: number;
}

const CASES: Case[] = [
  { model: 'mamba-5m', shape: '4x64' },
  { model: 'mamba-5m', shape: '4x128' },
  { model: 'mamba-5m', shape: '8x256' },
  { model: 'mamba-5m', shape: '8x256', gradientCheckpointing: true },
  { model: '130m', shape: '4x64' },
  { model: '130m', shape: '4x64', gradientCheckpointing: true },
];

async function measure({ model: name, shape, gradientCheckpointing = false }: Case): Promise<Result> {
  const backend = await nativeBackend();
  const model = await benchModel(name);
  model.gradientCheckpointing = gradientCheckpointing;
  const step = trainStep(model, ...parseShape(shape));
  const seconds = timeMedian(step, { warmup: 2, calls: 5, seconds: 2 });
  return { seconds, peakRss: process.resourceUsage().maxRSS * 1024, peakBytes: backend.memoryStats().peakBytes };
}

function measurePeer({ model, shape }: Case): { seconds: number; peak_rss_bytes: number } | undefined {
  const slow = shape === '8x256';
  if (slow && !process.argv.includes('--peer=all')) return undefined;
  const path = model === '130m' ? model : `models/${model}`;
  return runPython(['bench/peer/peer_step.py', '--model', path, '--shape', shape, '--steps', slow ? '1' : '3']);
}

function main(): void {
  const withPeer = process.argv.some((argument) => argument.startsWith('--peer'));
  printHeader(
    'train step: forward, backward, clipping, AdamW; LoRA r 8 on x_proj, embeddings, in_proj, out_proj; float32',
  );
  const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(2);
  const rows = CASES.map((benchCase) => {
    const { seconds, peakRss, peakBytes } = runCase<Result>(import.meta.url, benchCase);
    const [batch, seqlen] = parseShape(benchCase.shape);
    const peer = withPeer && !benchCase.gradientCheckpointing ? measurePeer(benchCase) : undefined;
    return [
      `${benchCase.model}${benchCase.gradientCheckpointing ? ', gradient checkpointing' : ''}`,
      benchCase.shape,
      digits(1000 * seconds),
      digits((batch * seqlen) / seconds),
      gigabytes(peakBytes),
      gigabytes(peakRss),
      ...(withPeer
        ? [
            peer ? digits(1000 * peer.seconds) : '',
            peer ? digits(peer.seconds / seconds) : '',
            peer ? gigabytes(peer.peak_rss_bytes) : '',
          ]
        : []),
    ];
  });
  const columns = ['model', 'batch x seqlen', 'ms a step', 'tokens/s', 'peak tensors, GB', 'peak RSS, GB'];
  printTable([...columns, ...(withPeer ? ['peer, ms', 'ratio', 'peer RSS, GB'] : [])], rows);
}

if (isOnGpu) {
  const gpuCase = givenCase<GpuCase>();
  if (gpuCase) answer(await measureOnGpu(gpuCase));
  else await printOnGpu(import.meta.url);
} else {
  const benchCase = givenCase<Case>();
  if (benchCase) answer(await measure(benchCase));
  else main();
}
