// SPDX-License-Identifier: Apache-2.0
/** The quickstart's whole run, 630 steps with evaluations and checkpoints; `--peer` runs 10 steps of trl's SFTTrainer beside it. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadConfig } from '../src/config/load.ts';
import { runTraining } from '../trainer/run.ts';
import { runPython } from './helpers/python.ts';
import { digits, printHeader } from './helpers/report.ts';

const PEER_STEPS = 10;

printHeader('seed recipe: configs/quickstart.yaml, mamba-5m, batch 4, up to 256 tokens, 3 epochs');
const folder = mkdtempSync(join(tmpdir(), 'mambatune-bench-'));
try {
  const { config } = loadConfig('configs/quickstart.yaml', [
    `trainer.output_dir=${join(folder, 'run')}`,
    'trainer.backend=native',
  ]);
  const { steps, seconds, tokensPerSecond, peakMemoryBytes, evalLosses } = await runTraining(config, {
    onMessage: () => {},
  });
  console.log(
    `\n${steps} steps in ${digits(seconds)} s, with evaluations and checkpoints: ${digits(seconds / steps)} s a step`,
  );
  console.log(`${digits(tokensPerSecond)} tokens/s of training, peak memory ${(peakMemoryBytes / 1e9).toFixed(2)} GB`);
  console.log(`test loss after each epoch: ${evalLosses.map(({ loss }) => loss.toFixed(4)).join(', ')}`);
  if (process.argv.includes('--peer')) {
    const args = ['bench/peer/peer_sft.py', '--base', 'models/mamba-5m', '--data', 'datasets/quickstart/train.jsonl'];
    const peer = runPython<{ seconds: number }>([
      ...args,
      '--steps',
      String(PEER_STEPS),
      '--out',
      join(folder, 'peer'),
    ]);
    if (peer) {
      const each = peer.seconds / PEER_STEPS;
      console.log(
        `peer (trl SFTTrainer): ${digits(each)} s a step over ${PEER_STEPS} steps, ${digits((each * steps) / seconds)} times as long`,
      );
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
