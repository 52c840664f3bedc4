// SPDX-License-Identifier: Apache-2.0
/** Generation on real models: golden tokens, carried state against full recomputation, padding, options, leaks. */
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openSafetensors } from '../../src/checkpoint/safetensors.ts';
import { type GenerateOptions, generate, stream } from '../../src/generation/index.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { createRandom } from '../../src/random.ts';
import { loadTokenizer, type Tokenizer } from '../../src/tokenizer/tokenizer.ts';
import { testedBackends } from '../helpers/backends.ts';

function goldenRows(name: string, tensor: string): number[][] {
  const source = openSafetensors(join('test', 'golden', name, 'golden.safetensors'));
  const [rows = 0, columns = 0] = source.entries.get(tensor)?.shape ?? [];
  const values = [...source.readInt32(tensor)];
  source.close();
  return Array.from({ length: rows }, (_, row) => values.slice(row * columns, (row + 1) * columns));
}

/** Greedy continuation that runs the whole row through the model for every token. */
async function recompute(model: MambaForCausalLM, prompt: number[], count: number): Promise<number[]> {
  const row = [...prompt];
  for (let i = 0; i < count; i++) {
    const { logits } = model.forward({ inputIds: [row] });
    const last = tf.tidy(() => tf.argMax(tf.reshape(tf.slice(logits, [0, row.length - 1, 0], [1, 1, -1]), [-1])));
    row.push((await last.data())[0] ?? -1);
    tf.dispose([logits, last]);
  }
  return row;
}

describe.each(testedBackends())('on %s', (backend) => {
  test.each(['tied', 'rslora', 'falcon_mamba'])('golden greedy tokens of %s', async (name) => {
    const model = await MambaForCausalLM.fromPretrained(join('test', 'golden', name, 'model'), { backend });
    const rows = await generate(model, goldenRows(name, 'generate_prompt'), { maxNewTokens: 12, eosTokenId: null });
    expect(rows).toEqual(goldenRows(name, 'generate_greedy'));
    expect(rows).toEqual(goldenRows(name, 'generate_hf_cache'));
    model.dispose();
  });

  test('a real model writes what the reference writes, and nothing leaks', async () => {
    const before = tf.memory().numTensors;
    const model = await MambaForCausalLM.fromPretrained('models/mamba-5m', { backend });
    const tokenizer = loadTokenizer('models/mamba-5m');
    const prompts = tokenizer(['politician, n.']).inputIds;
    const [row = []] = await generate(model, prompts, { maxNewTokens: 40 });
    expect(tokenizer.decode(row, { skipSpecialTokens: true })).toBe(
      'politician, n. A person who is a member of the political party.',
    );
    expect(row.at(-1)).toBe(tokenizer.eosTokenId);

    const withState = tf.memory().numTensors;
    await generate(model, prompts, { maxNewTokens: 3 });
    expect(tf.memory().numTensors).toBe(withState);
    model.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });
});

describe('on one backend', () => {
  let model: MambaForCausalLM;
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    model = await MambaForCausalLM.fromPretrained('models/mamba-5m', { backend: testedBackends()[0] });
    tokenizer = loadTokenizer('models/mamba-5m');
  });
  afterAll(() => model.dispose());

  const prompts = () => tokenizer(['politician, n.', 'a', 'weather, n. The state of the air and']).inputIds;

  test('carried state gives what full recomputation gives', async () => {
    const [prompt = []] = prompts();
    const [row] = await generate(model, [prompt], { maxNewTokens: 16, eosTokenId: null });
    expect(row).toEqual(await recompute(model, prompt, 16));
  });

  test('prompts that take several pieces give what one piece gives', async () => {
    const tiny = await MambaForCausalLM.fromPretrained(join('test', 'golden', 'tied', 'model'), {
      backend: testedBackends()[0],
    });
    const ids = createRandom({ seed: 1 });
    const prompts = Array.from({ length: 128 }, () => Array.from({ length: 9 }, () => ids.below(97)));
    const [first = []] = prompts;
    const rows = await generate(tiny, [...prompts, first.slice(4)], { maxNewTokens: 2, eosTokenId: null });
    for (const prompt of [first, prompts[127] ?? []]) {
      expect(rows).toContainEqual(await recompute(tiny, prompt, 2));
    }
    expect(rows[128]).toEqual(await recompute(tiny, first.slice(4), 2));
    tiny.dispose();
  });

  test.each<GenerateOptions>([{}, { doSample: true, temperature: 0.9, topP: 0.9, seed: 11 }])(
    'a batch of prompts of different length gives what its rows give alone, with %j',
    async (options) => {
      const rows = await generate(model, prompts(), { maxNewTokens: 12, ...options });
      const [first] = await generate(model, prompts().slice(0, 1), { maxNewTokens: 12, ...options });
      expect(rows[0]).toEqual(first);
      if (options.doSample) return;
      for (const [index, prompt] of prompts().entries()) {
        expect(rows[index]).toEqual((await generate(model, [prompt], { maxNewTokens: 12 }))[0]);
      }
    },
  );

  test('the padding id changes nothing', async () => {
    const rows = await generate(model, prompts(), { maxNewTokens: 8, padTokenId: 1 });
    expect(await generate(model, prompts(), { maxNewTokens: 8, padTokenId: 77 })).toEqual(rows);
  });

  test('rows end at the end-of-text id, each for itself', async () => {
    const free = await generate(model, prompts(), { maxNewTokens: 10, eosTokenId: null });
    const eos = free[0]?.[(prompts()[0]?.length ?? 0) + 3] ?? -1;
    const rows = await generate(model, prompts(), { maxNewTokens: 10, eosTokenId: [eos, 4095] });
    for (const [index, prompt] of prompts().entries()) {
      const continuation = free[index]?.slice(prompt.length) ?? [];
      const end = continuation.indexOf(eos);
      expect(rows[index]).toEqual([...prompt, ...(end === -1 ? continuation : continuation.slice(0, end + 1))]);
    }
  });

  test('sampling: the same seed gives the same text, another seed another', async () => {
    const draw = (seed: number) => generate(model, prompts(), { doSample: true, maxNewTokens: 10, seed });
    const rows = await draw(5);
    expect(await draw(5)).toEqual(rows);
    expect(await draw(6)).not.toEqual(rows);
  });

  test('tokens come as they are chosen, and leaving early frees the state', async () => {
    const [prompt = []] = prompts();
    const [row = []] = await generate(model, [prompt], { maxNewTokens: 6, eosTokenId: null });
    const before = tf.memory().numTensors;
    const seen: number[] = [];
    for await (const { id, finishReason } of stream(model, [prompt], { maxNewTokens: 6, eosTokenId: null })) {
      expect(finishReason).toBeUndefined();
      seen.push(id);
      if (seen.length === 3) break;
    }
    expect(seen).toEqual(row.slice(prompt.length, prompt.length + 3));
    expect(tf.memory().numTensors).toBe(before);
  });

  test('the last token of a row says why it is the last', async () => {
    const finishes = async (options: GenerateOptions) => {
      const reasons: [number, string][] = [];
      for await (const { row, finishReason } of stream(model, prompts(), options)) {
        if (finishReason) reasons.push([row, finishReason]);
      }
      return new Map(reasons);
    };
    const all = (reason: string) => new Map(prompts().map((_, row) => [row, reason]));
    expect(await finishes({ maxNewTokens: 2, eosTokenId: null })).toEqual(all('length'));
    expect(await finishes({ maxNewTokens: 2, eosTokenId: Array.from({ length: 4096 }, (_, id) => id) })).toEqual(
      all('eos'),
    );
  });

  test('onToken gets every token of every row', async () => {
    const rows = prompts();
    const result = await generate(model, prompts(), { maxNewTokens: 5, onToken: (row, id) => rows[row]?.push(id) });
    expect(rows).toEqual(result);
  });

  test('a signal ends it with its reason and frees the state', async () => {
    const before = tf.memory().numTensors;
    const controller = new AbortController();
    const onToken = () => controller.abort(new Error('enough'));
    await expect(generate(model, prompts(), { onToken, signal: controller.signal })).rejects.toThrow('enough');
    expect(tf.memory().numTensors).toBe(before);
    await expect(generate(model, prompts(), { signal: AbortSignal.abort(new Error('never')) })).rejects.toThrow(
      'never',
    );
    expect(tf.memory().numTensors).toBe(before);
  });

  test('bad options and prompts', async () => {
    await expect(generate(model, [])).rejects.toThrow(/found no prompts/);
    await expect(generate(model, [[1], []])).rejects.toThrow(/prompt 1 has no ids/);
    await expect(generate(model, [[1]], { maxNewTokens: 0 })).rejects.toThrow(/maxNewTokens is 0; expected/);
    await expect(generate(model, [[1]], { topK: 5 })).rejects.toThrow(/topK is 5, but without sampling/);
    await expect(generate(model, [[4096]])).rejects.toThrow(/4096 .*outside 0\.\.4095/);
  });
});
