// SPDX-License-Identifier: Apache-2.0
/** Packed training is the training of its documents: the same losses and gradients, and no document sees another. */
import type { Tensor, Tensor3D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { PeftModel } from '../../adapters/index.ts';
import { type Example, packSequences } from '../../datasets/index.ts';
import { valueAndGradients } from '../../src/autograd/index.ts';
import { bestBackend, forEachBackend, onBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { goldenAdapter, goldenExamples, type TinyRun, tinyRun, trainedValues } from './tiny_run.ts';

/** 12 documents of 4 to 24 tokens, some with a masked beginning. */
function documents(): Example[] {
  return goldenExamples('tied').map(({ inputIds }, i) => {
    const ids = inputIds.slice(0, 24 - ((7 * i) % 21));
    const labels = ids.slice();
    labels.fill(-100, 0, i % 3);
    return { inputIds: ids, labels, promptLength: i % 3 };
  });
}

onBackend(bestBackend, () => {
  it('trains as unpacked documents do: losses, gradient norms, parameters', async () => {
    const examples = documents();
    const rows = packSequences(examples, 48);
    expect(rows.length).toBeLessThan(6);
    const run = async (list: typeof rows | Example[]): Promise<TinyRun & { values: Map<string, Float32Array> }> => {
      const { model } = await goldenAdapter('tied', bestBackend);
      // A large eps makes the first steps of AdamW smooth in the gradient, whose last bits may differ.
      const plan = { batchSize: list.length, maxSteps: 5, shuffle: true };
      const result = await tinyRun(model, { examples: list, eps: 1e-2, plan });
      const values = trainedValues(model);
      model.dispose();
      return { ...result, values };
    };
    const packed = await run(rows);
    const unpacked = await run(examples);
    for (const key of ['loss', 'gradNorm'] as const) {
      const valuesOf = ({ reports }: TinyRun) => reports.map((report) => report[key]);
      expectClose(valuesOf(packed), valuesOf(unpacked), { rtol: 2e-6, name: key });
    }
    expect(packed.end.tokens).toBe(unpacked.end.tokens);
    for (const [name, values] of unpacked.values)
      expectClose(packed.values.get(name) ?? [], values, { rtol: 2e-6, name });
  });
});

forEachBackend((backend) => {
  let adapter: PeftModel;

  beforeAll(async () => {
    adapter = await goldenAdapter('tied', backend);
  });
  afterAll(() => adapter.model.dispose());

  describe('a document of a packed row', () => {
    const starts = [0, 9, 10, 21];
    const length = 24;
    const seqIdx = [Array.from({ length }, (_, t) => starts.filter((start) => start <= t).length - 1)];
    const ids = Array.from(goldenExamples('tied')[0]?.inputIds ?? []);
    const logitsOf = (inputIds: number[], documentsOfRow?: number[][]) => {
      const { logits } = adapter.model.forward({ inputIds: [inputIds], seqIdx: documentsOfRow });
      const values = logits.dataSync<'float32'>().slice();
      logits.dispose();
      return values;
    };
    const at = (values: Float32Array, from: number, to: number) =>
      values.slice((from * values.length) / length, (to * values.length) / length);

    it('changes nothing in its neighbours, bit for bit, when it changes', () => {
      const changed = ids.map((id, t) => (t >= 10 && t < 21 ? (id + 1 + t) % 61 : id));
      const [before, after] = [logitsOf(ids, seqIdx), logitsOf(changed, seqIdx)];
      expect(at(after, 0, 10)).toEqual(at(before, 0, 10));
      expect(at(after, 21, length)).toEqual(at(before, 21, length));
      expect(at(after, 10, 21)).not.toEqual(at(before, 10, 21));
      expect(at(logitsOf(changed), 21, length), 'without seqIdx it does').not.toEqual(at(logitsOf(ids), 21, length));
    });

    it('gets no gradient at all from the loss of its neighbours', () => {
      const embeds = tf.variable(
        tf.tidy(() => tf.randomNormal([1, length, adapter.model.config.hiddenSize], 0, 1, 'float32', 3)),
      );
      const lossOf = (from: number, to: number) => () => {
        const { logits } = adapter.model.forward({ inputsEmbeds: embeds as unknown as Tensor3D, seqIdx });
        return tf.sum(tf.square(tf.slice(logits, [0, from, 0], [1, to - from, -1])));
      };
      for (const [index, start] of starts.entries()) {
        const end = starts[index + 1] ?? length;
        const gradient = tf.tidy(() => {
          const { gradients } = valueAndGradients(lossOf(start, end) as () => tf.Scalar, [embeds]);
          return tf
            .sum(tf.abs(gradients[0] as Tensor), [0, 2])
            .dataSync<'float32'>()
            .slice();
        });
        const touched = Array.from(gradient, (size) => size !== 0);
        expect(touched).toEqual(Array.from({ length }, (_, t) => t >= start && t < end));
      }
      embeds.dispose();
    });
  });
});
