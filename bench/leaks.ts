// SPDX-License-Identifier: Apache-2.0
/** 1,000 train steps: fails when a tensor, a native byte or resident memory is left behind. */
import * as tf from '@tensorflow/tfjs-core';
import { median, nativeBackend, printHeader, printTable } from './helpers/report.ts';
import { benchModel, trainStep } from './helpers/steps.ts';

const STEPS = 1000;
/** Once the allocator's pools and V8's heap have their size. */
const WARM = 200;
const TABLE_EVERY = 200;

printHeader(`leaks: mamba-5m, 4x64, ${STEPS} steps`);
const backend = await nativeBackend();
const step = trainStep(await benchModel('mamba-5m'), 4, 64);
const rows: number[][] = [];
const rss: number[] = [];
for (let i = 1; i <= STEPS; i++) {
  step();
  if (i > WARM) rss.push(process.memoryUsage.rss());
  if (i % TABLE_EVERY !== 0) continue;
  const { liveBytes, liveBuffers } = backend.memoryStats();
  rows.push([i, tf.memory().numTensors, liveBuffers, liveBytes, Math.round(process.memoryUsage.rss() / 1e6)]);
}
printTable(['step', 'tensors', 'native buffers', 'native bytes', 'RSS, MB'], rows);

const [first, last] = [rows[0], rows.at(-1)] as [number[], number[]];
const grown = [1, 2, 3].filter((column) => first[column] !== last[column]);
const half = rss.length / 2;
const growth = median(rss.slice(half)) / median(rss.slice(0, half)) - 1;
console.log(`\nmedian RSS of the last ${half} steps against the ${half} before: ${(100 * growth).toFixed(1)} %`);
if (grown.length > 0 || growth > 0.05) {
  console.error('LEAK: live memory or RSS grew');
  process.exitCode = 1;
}
