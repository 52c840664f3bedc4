// SPDX-License-Identifier: Apache-2.0
/** A card that is too small: the error says what was wanted and what holds the rest, and smaller work goes on. */
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { UserError } from '../../src/errors.ts';
import { onBackend } from '../helpers/backends.ts';
import { goldenAdapter, goldenExamples, tinyRun } from '../trainer/tiny_run.ts';

// Read once, when the first memory is taken.
process.env.MAMBATUNE_CUDA_MEMORY_MIB = '192';

onBackend('cuda', () => {
  it('a tensor larger than the limit', () => {
    expect(() => tf.zeros([1 << 28])).toThrow(
      /out of memory on the GPU: 1024\.0 MiB wanted; .* MiB in use by \d+ buffers, .* by copies of weights, .* held in cache; .* recorded steps; the card has .* MiB free of .* MiB, and MAMBATUNE_CUDA_MEMORY_MIB is 192\. A smaller per_device_train_batch_size or max_length, or gradient_checkpointing: true, needs less/,
    );
  });

  it('a training step: the run ends with a report, and the next gives the same bits as before', async () => {
    const train = async () => {
      const { model } = await goldenAdapter('tied', 'cuda');
      const { reports } = await tinyRun(model, { examples: goldenExamples('tied'), plan: { maxSteps: 4 } });
      model.dispose();
      return reports.map(({ loss, gradNorm }) => [loss, gradNorm]);
    };
    const before = await train();

    const { model } = await goldenAdapter('tied', 'cuda');
    const inputIds = Int32Array.from({ length: 200_000 }, (_, i) => i % model.config.vocabSize);
    const examples = Array.from({ length: 3 }, () => ({ inputIds, labels: inputIds, promptLength: 0 }));
    const failure = await tinyRun(model, { examples }).catch((error: unknown) => error);
    model.dispose();
    expect(failure).toBeInstanceOf(UserError);
    expect((failure as UserError).message).toMatch(
      /out of memory on the GPU: .* wanted; .*\nThe run keeps .* 3x200000/,
    );

    expect(await train()).toEqual(before);
  });
});
