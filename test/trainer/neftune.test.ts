// SPDX-License-Identifier: Apache-2.0
/** NEFTune's noise: its size, its seeds, and where it is added. */
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { neftuneNoise } from '../../trainer/neftune.ts';
import { readGolden } from '../golden/golden.ts';
import { forEachBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { goldenExamples } from './tiny_run.ts';

const shape = { batch: 3, seqlen: 40 };

it('is uniform, within alpha / sqrt(seqlen d_model), and another for each seed and batch', () => {
  const draw = (seed: number, microStep: number) => neftuneNoise(shape, 50, 5, { seed, microStep });
  const noise = draw(1, 2);
  const bound = 5 / Math.sqrt(40 * 50);
  expect(noise).toHaveLength(3 * 40 * 50);
  expect(Math.max(...noise)).toBeLessThanOrEqual(bound);
  expect(Math.max(...noise)).toBeGreaterThan(0.99 * bound);
  expect(Math.min(...noise)).toBeLessThan(-0.99 * bound);
  const mean = (values: Float32Array) => values.reduce((a, b) => a + b, 0) / values.length;
  // Of 6000 uniform numbers: standard errors are 0.0075 and 0.0038.
  expect(Math.abs(mean(noise) / bound)).toBeLessThan(0.03);
  expect(mean(noise.map((value) => (value / bound) ** 2))).toBeCloseTo(1 / 3, 1);
  expect(draw(1, 2)).toEqual(noise);
  expect(draw(2, 2)).not.toEqual(noise);
  expect(draw(1, 3)).not.toEqual(noise);
});

forEachBackend((backend) => {
  it('is added to the embeddings of a loss', async () => {
    const { folder } = readGolden('tied');
    const model = await MambaForCausalLM.fromPretrained(join(folder, 'model'), { backend });
    const [example] = goldenExamples('tied');
    if (!example) throw new Error('the golden has examples');
    const { inputIds, labels } = example;
    const size = { batch: 1, seqlen: inputIds.length };
    const embeddingNoise = neftuneNoise(size, model.config.hiddenSize, 50, { seed: 1, microStep: 0 });
    const losses = tf.tidy(() => {
      const sum = (noise?: Float32Array) =>
        model.lossSum({ inputIds, labels, ...size, ...(noise && { embeddingNoise: noise }) }).lossSum.dataSync()[0];
      const W = model.parameters.get('backbone.embeddings.weight') as tf.Variable;
      const embedded = tf.expandDims<tf.Tensor3D>(tf.gather(W, tf.tensor1d(inputIds, 'int32')), 0);
      const inputsEmbeds = tf.add<tf.Tensor3D>(embedded, tf.tensor(embeddingNoise, embedded.shape));
      const mean = model.forward({ inputsEmbeds, labels: [Array.from(labels)] }).loss?.dataSync()[0] ?? Number.NaN;
      return { plain: sum(), noisy: sum(embeddingNoise), expected: mean * (inputIds.length - 1) };
    });
    expect(losses.noisy).not.toBe(losses.plain);
    expectClose([losses.noisy as number], [losses.expected], { rtol: 1e-5 });
    model.dispose();
  });
});
