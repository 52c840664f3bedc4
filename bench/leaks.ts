// SPDX-License-Identifier: Apache-2.0
/**
 * 1,000 train steps, 10,000 recorded ones with `--backend=cuda`: fails when a tensor, a byte of the device or resident memory is left
 * behind.
 */
import * as tf from '@tensorflow/tfjs-core';
import { trainerStep } from './helpers/gpu_steps.ts';
import { benchBackend, isOnGpu, median, printHeader, printTable } from './helpers/report.ts';
import { benchModel, trainStep } from './helpers/steps.ts';

const STEPS = isOnGpu ? 10_000 : 1000;
/** Once the allocator's pools and V8's heap have their size. */
const WARM = STEPS / 5;
const TABLE_EVERY = STEPS / 5;

const backend = await benchBackend();
printHeader(`leaks: mamba-5m, 4x64, ${STEPS} steps`);
const model = await benchModel('mamba-5m');
const step = isOnGpu ? trainerStep(model, { batch: 4, seqlen: 64 }).run : trainStep(model, 4, 64);
const rows: number[][] = [];
const rss: number[] = [];
for (let i = 1; i <= STEPS; i++) {
  step();
  if (i > WARM) rss.push(process.memoryUsage.rss());
  if (i % TABLE_EVERY !== 0) continue;
  const { liveBytes, liveBuffers, cachedBytes } = backend.memoryStats();
  const held = isOnGpu ? [cachedBytes] : [];
  rows.push([i, tf.memory().numTensors, liveBuffers, liveBytes, ...held, Math.round(process.memoryUsage.rss() / 1e6)]);
}
const counted = ['tensors', 'buffers', 'bytes in buffers', ...(isOnGpu ? ['bytes held for reuse'] : [])];
printTable(['step', ...counted, 'RSS, MB'], rows);

const [first, last] = [rows[0], rows.at(-1)] as [number[], number[]];
const grown = counted.filter((_, i) => first[i + 1] !== last[i + 1]);
const half = rss.length / 2;
const growth = median(rss.slice(half)) / median(rss.slice(0, half)) - 1;
console.log(`\nmedian RSS of the last ${half} steps against the ${half} before: ${(100 * growth).toFixed(1)} %`);
if (grown.length > 0 || growth > 0.05) {
  console.error(`LEAK: ${[...grown, ...(growth > 0.05 ? ['RSS'] : [])].join(', ')} grew`);
  process.exitCode = 1;
}
