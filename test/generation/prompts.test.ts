// SPDX-License-Identifier: Apache-2.0
/** To the bit on native: a row's logits depend neither on the batch that it is in nor on the pieces in which it is read. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { getPeftModel, LoraConfig } from '../../adapters/index.ts';
import { createDecoder } from '../../src/generation/decoder.ts';
import { readPrompts } from '../../src/generation/prompts.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { createRandom } from '../../src/random.ts';
import { testedBackends } from '../helpers/backends.ts';

const VOCAB = 4096;
const random = createRandom({ seed: 9 });
const promptOf = (length: number) => Array.from({ length }, () => random.below(VOCAB));

describe.runIf(testedBackends().includes('native'))('to the bit', () => {
  let model: MambaForCausalLM;
  beforeAll(async () => {
    model = await MambaForCausalLM.fromPretrained('models/mamba-5m', { backend: 'native' });
    getPeftModel(
      model,
      new LoraConfig({
        r: 4,
        targetModules: ['x_proj', 'embeddings', 'in_proj', 'out_proj', 'dt_proj'],
        initLoraWeights: false,
      }),
    );
  });
  afterAll(() => model.dispose());

  /** Logits of each row after its prompt, then after each of two tokens more. */
  async function logitsOf(prompts: number[][]): Promise<Float32Array[][]> {
    const { decoder, logits } = await readPrompts(model, prompts);
    const rowsOf = (values: Float32Array) => prompts.map((_, row) => values.slice(row * VOCAB, (row + 1) * VOCAB));
    const steps = [rowsOf(logits)];
    for (const base of [7, 1000]) steps.push(rowsOf(await decoder.step(prompts.map((row) => base + row.length))));
    decoder.dispose();
    return prompts.map((_, row) => steps.map((step) => step[row] as Float32Array));
  }

  test.each([
    [2, [1, 5]],
    [3, [40, 3, 17]],
    [9, [1, 2, 3, 33, 34, 8, 21, 5, 60]],
    [40, Array.from({ length: 40 }, (_, i) => 1 + (i % 7))],
  ])('batch of %d = its rows alone', async (_, lengths) => {
    const prompts = lengths.map(promptOf);
    const together = await logitsOf(prompts);
    for (const row of [...new Set([0, 1, lengths.length - 1])]) {
      const [alone = []] = await logitsOf([prompts[row] as number[]]);
      expect(together[row]).toEqual(alone);
    }
  });

  test('a prompt of several pieces = the whole at once', async () => {
    const prompt = promptOf(2100);
    const [[pieces] = []] = await logitsOf([prompt]);
    const decoder = createDecoder(model);
    expect(pieces).toEqual((await decoder.prefill([prompt])).slice());
    decoder.dispose();
  });
});
