// SPDX-License-Identifier: Apache-2.0
/** What a run says when the device's memory is full. */
import { expect, it } from 'vitest';
import { UserError } from '../../src/errors.ts';
import { formatBytes } from '../../src/logging/format.ts';
import { explainOutOfMemory } from '../../trainer/out_of_memory.ts';
import { bestBackend, onBackend } from '../helpers/backends.ts';
import { goldenAdapter, goldenExamples, tinyRun } from './tiny_run.ts';

const FULL = 'lora_linear_fwd: out of memory on the GPU: 5.0 MiB wanted; 1.0 MiB in use';

onBackend(bestBackend, () => {
  it('a step that does not fit names what the run keeps, and the next run works', async () => {
    const { model } = await goldenAdapter('tied', bestBackend);
    const { lossSumOn } = model;
    model.lossSumOn = () => {
      throw new Error(FULL);
    };
    const failure = await tinyRun(model, { examples: goldenExamples('tied') }).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(UserError);
    const bytes = (parameters: Iterable<{ size: number }>) =>
      formatBytes([...parameters].reduce((sum, { size }) => sum + 4 * size, 0));
    const trainable = model.trainableParameters();
    expect((failure as UserError).message).toMatch(
      new RegExp(
        `^${FULL}\\.\nThe run keeps ${bytes(model.parameters.values())} of frozen weights, ${bytes(trainable.values())} that train, .* step of batches ${bestBackend === 'cuda' ? '3x64' : '3x24'}\\.`,
      ),
    );
    model.lossSumOn = lossSumOn;
    const { reports } = await tinyRun(model, { examples: goldenExamples('tied') });
    expect(reports).toHaveLength(1);
    model.dispose();
  });

  it('leaves other errors alone', async () => {
    const { model } = await goldenAdapter('tied', bestBackend);
    const error = new Error('something else');
    expect(explainOutOfMemory(error, model, [])).toBe(error);
    model.dispose();
  });
});
