// SPDX-License-Identifier: Apache-2.0
/** An epoch of the quickstart's data: one record a row, batches of about one length, packed rows. Takes turns, three times. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadConfig } from '../src/config/load.ts';
import { runTraining } from '../trainer/run.ts';
import { digits, median, printHeader, printTable } from './helpers/report.ts';

const VARIANTS = {
  'one record a row': [],
  'group_by_length: true': ['trainer.group_by_length=true'],
  'packing: true': ['data.packing=true'],
};
const TURNS = 3;

printHeader('packing: an epoch of configs/quickstart.yaml (mamba-5m, batch 4, max_length 256), training steps alone');
const folder = mkdtempSync(join(tmpdir(), 'mambatune-bench-'));
try {
  const runs = Object.entries(VARIANTS).map(([name, overrides]) => ({
    name,
    overrides,
    epochs: [] as number[],
    steps: 0,
    tokens: 0,
  }));
  for (let turn = 0; turn < TURNS; turn++) {
    for (const run of runs) {
      const { config } = loadConfig('configs/quickstart.yaml', [
        ...run.overrides,
        `trainer.output_dir=${join(folder, 'run')}`,
        'trainer.backend=native',
        'trainer.num_train_epochs=1',
        'trainer.eval_strategy=no',
        'trainer.save_strategy=no',
      ]);
      const { steps, tokens, tokensPerSecond } = await runTraining(config, { onMessage: () => {} });
      run.epochs.push(tokens / tokensPerSecond);
      Object.assign(run, { steps, tokens });
    }
  }
  const plain = median(runs[0]?.epochs ?? []);
  printTable(
    ['data', 'steps', 'seconds an epoch', 'tokens/s', 'times as fast'],
    runs.map(({ name, epochs, steps, tokens }) => {
      const seconds = median(epochs);
      return [name, steps, digits(seconds), digits(tokens / seconds), digits(plain / seconds)];
    }),
  );
} finally {
  rmSync(folder, { recursive: true, force: true });
}
