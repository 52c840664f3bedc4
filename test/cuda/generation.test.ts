// SPDX-License-Identifier: Apache-2.0
/** Generation by recorded steps against steps that run as they come. */
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { createDecoder } from '../../src/generation/decoder.ts';
import { type GenerateOptions, generate } from '../../src/generation/index.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { readGolden } from '../golden/golden.ts';
import { onBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';

const PROMPTS = [
  [1, 2, 3, 4, 5],
  [7, 8, 9],
];

const loadTied = () => MambaForCausalLM.fromPretrained(join(readGolden('tied').folder, 'model'), { backend: 'cuda' });

onBackend('cuda', () => {
  it('each recorded step gives what the whole text gives at once', async () => {
    const model = await loadTied();
    const { vocabSize } = model.config;
    const text = Array.from({ length: 24 }, (_, i) => (7 * i) % vocabSize);
    const whole = tf.tidy(() => model.forward({ inputIds: [text] }).logits.dataSync<'float32'>());
    const decoder = createDecoder(model);
    const steps = [(await decoder.prefill([[text[0] as number]])).slice()];
    for (const id of text.slice(1)) steps.push((await decoder.step([id])).slice());
    for (const [position, logits] of steps.entries()) {
      const expected = whole.subarray(position * vocabSize, (position + 1) * vocabSize);
      expectClose(logits, expected, { name: `logits of position ${position}` });
    }
    decoder.dispose();
    model.dispose();
  });

  it.each<GenerateOptions>([
    {},
    { repetitionPenalty: 1.3 },
    { doSample: true, seed: 1 },
    { doSample: true, seed: 2, topK: 0, temperature: 6 },
    { doSample: true, seed: 3, topK: 0, topP: 0.9, temperature: 6 },
    { doSample: true, seed: 4, topK: 30, topP: 0.8, minP: 0.01, temperature: 4, repetitionPenalty: 1.2 },
    { doSample: true, seed: 5, temperature: 6, numReturnSequences: 4, eosTokenId: [3, 14, 15, 92, 65, 35] },
  ])('choices made on the device are those of the host from steps that are read, with %j', async (options) => {
    const model = await loadTied();
    const asked = { maxNewTokens: 50, eosTokenId: null, ...options };
    const ahead = await generate(model, PROMPTS, asked);
    // No row comes twice, so that n-grams of this length forbid nothing: they bring every row of logits to the host.
    const read = await generate(model, PROMPTS, { ...asked, noRepeatNgramSize: 60 });
    expect(ahead).toEqual(read);
    if (asked.eosTokenId === null)
      expect(ahead.map((row) => row.length)).toEqual(PROMPTS.map((prompt) => prompt.length + asked.maxNewTokens));
    else expect(new Set(ahead.map((row) => row.length)).size).toBeGreaterThan(2);
    model.dispose();
  });

  it('two runs give the same tokens, greedy and with chance, and nothing is left behind', async () => {
    const model = await loadTied();
    for (const options of [{}, { doSample: true, seed: 3, topK: 0, topP: 0.9 }]) {
      const run = () => generate(model, PROMPTS, { maxNewTokens: 30, eosTokenId: null, ...options });
      const first = await run();
      const before = tf.memory().numTensors;
      expect(await run()).toEqual(first);
      expect(tf.memory().numTensors).toBe(before);
    }
    model.dispose();
  });
});
