// SPDX-License-Identifier: Apache-2.0
/** Step time against seqlen, mamba-5m, batch 1: the time a token must not grow. */
import { digits, nativeBackend, printHeader, printTable, timeMedian } from './helpers/report.ts';
import { benchModel, trainStep } from './helpers/steps.ts';

printHeader('train step against seqlen: mamba-5m, batch 1');
const backend = await nativeBackend();
const rows: (string | number)[][] = [];
for (const seqlen of [256, 512, 1024, 2048, 4096, 8192]) {
  const model = await benchModel('mamba-5m');
  backend.addon.resetPeak(backend.device);
  const seconds = timeMedian(trainStep(model, 1, seqlen), { warmup: 1, calls: 3, seconds: 1 });
  rows.push([
    seqlen,
    digits(1000 * seconds),
    digits((1e6 * seconds) / seqlen),
    (backend.memoryStats().peakBytes / 1e6).toFixed(0),
  ]);
  model.dispose();
}
printTable(['seqlen', 'ms a step', 'µs a token', 'peak tensors, MB'], rows);
