// SPDX-License-Identifier: Apache-2.0
/** The decoder: pieces, single tokens, rows and states all give what one forward gives. */
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createDecoder } from '../../src/generation/decoder.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { createRandom } from '../../src/random.ts';
import { testedBackends } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';

const VOCAB = 97;

describe.each(testedBackends())('on %s', (backend) => {
  let model: MambaForCausalLM;
  beforeAll(async () => {
    model = await MambaForCausalLM.fromPretrained(join('test', 'golden', 'tied', 'model'), { backend });
    expected([[1]]); // what the model keeps from its first forward on is not the decoder's
  });
  afterAll(() => model.dispose());

  const random = createRandom({ seed: 3 });
  const rows = Array.from({ length: 3 }, () => Array.from({ length: 12 }, () => random.below(VOCAB)));
  /** Logits after each row, by one forward. */
  const expected = (inputIds: number[][]): Float32Array => {
    const { logits } = model.forward({ inputIds, logitsToKeep: 1 });
    const values = logits.dataSync<'float32'>().slice();
    logits.dispose();
    return values;
  };
  const close = (actual: Float32Array, wanted: Float32Array) => expectClose(actual, wanted, { name: 'logits' });

  test('pieces and single tokens give what one forward gives, and nothing leaks', async () => {
    const before = tf.memory().numTensors;
    const decoder = createDecoder(model);
    await decoder.prefill(rows.map((row) => row.slice(0, 5)));
    await decoder.prefill(rows.map((row) => row.slice(5, 9)));
    for (const t of [9, 10]) await decoder.step(rows.map((row) => row[t] as number));
    close(await decoder.step(rows.map((row) => row[11] as number)), expected(rows));
    decoder.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  test('padding at the left changes nothing', async () => {
    const decoder = createDecoder(model);
    const padded = rows.map((row, i) => [...new Array<number>(i).fill(1), ...row.slice(0, 12 - i)]);
    const mask = rows.map((_, i) => padded[i]?.map((_, t) => (t < i ? 0 : 1)) as number[]);
    const logits = await decoder.prefill(padded, mask);
    for (const [i, row] of rows.entries()) {
      close(logits.slice(i * VOCAB, (i + 1) * VOCAB), expected([row.slice(0, 12 - i)]));
    }
    decoder.dispose();
  });

  test('rows can be left out, repeated and put in another order', async () => {
    const before = tf.memory().numTensors;
    const decoder = createDecoder(model);
    await decoder.prefill(rows.map((row) => row.slice(0, 8)));
    await decoder.step(rows.map((row) => row[8] as number));
    decoder.selectRows([2, 0, 2]);
    const logits = await decoder.step([7, 8, 9]);
    const [first = [], , third = []] = rows;
    close(
      logits,
      expected([
        [...third.slice(0, 9), 7],
        [...first.slice(0, 9), 8],
        [...third.slice(0, 9), 9],
      ]),
    );
    decoder.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  test('a state can be continued more than once, and outlives its decoder', async () => {
    const before = tf.memory().numTensors;
    const decoder = createDecoder(model);
    await decoder.prefill(rows.map((row) => row.slice(0, 6)));
    await decoder.step(rows.map((row) => row[6] as number));
    const state = decoder.copyState();
    await decoder.step([1, 1, 1]);
    decoder.dispose();
    for (const ids of [rows, rows.map((row) => row.toReversed())]) {
      const fork = createDecoder(model, state);
      const rest = ids.map((row) => row.slice(7));
      await fork.step(rest.map((row) => row[0] as number));
      close(
        await fork.prefill(rest.map((row) => row.slice(1))),
        expected(rows.map((row, i) => [...row.slice(0, 7), ...(rest[i] as number[])])),
      );
      fork.dispose();
    }
    state.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  test('an id outside the vocabulary is refused, and the state stays usable', async () => {
    const decoder = createDecoder(model);
    await decoder.prefill([rows[0]?.slice(0, 4) as number[]]);
    await expect(decoder.step([VOCAB])).rejects.toThrow(/97 .*outside 0\.\.96/);
    close(await decoder.step([rows[0]?.[4] as number]), expected([rows[0]?.slice(0, 5) as number[]]));
    decoder.dispose();
  });
});
