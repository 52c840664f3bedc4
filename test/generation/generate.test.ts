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

  /** The continuations alone. */
  const continued = async (options: GenerateOptions) =>
    (await generate(model, prompts(), options)).map((row, i) => row.slice(prompts()[i]?.length));

  test('minNewTokens keeps the end away, and no longer', async () => {
    const eos = (await continued({ maxNewTokens: 8, eosTokenId: null }))[0]?.[1] as number;
    const [row = []] = await continued({ maxNewTokens: 8, minNewTokens: 3, eosTokenId: eos });
    expect(row.slice(0, 3)).not.toContain(eos);
    expect(row.length).toBeGreaterThan(3);
  });

  test('noRepeatNgramSize: no pair comes twice, prompt included', async () => {
    const plain = await generate(model, prompts(), { maxNewTokens: 60, eosTokenId: null });
    const without = await generate(model, prompts(), { maxNewTokens: 60, eosTokenId: null, noRepeatNgramSize: 2 });
    const pairs = (row: number[]) => row.slice(1).map((id, i) => `${row[i]},${id}`);
    expect(plain.some((row) => new Set(pairs(row)).size < row.length - 1)).toBe(true);
    for (const row of without) expect(new Set(pairs(row)).size).toBe(row.length - 1);
  });

  test('repetitionPenalty: fewer tokens come again', async () => {
    const distinct = async (repetitionPenalty: number) =>
      new Set((await continued({ maxNewTokens: 60, eosTokenId: null, repetitionPenalty })).flat()).size;
    expect(await distinct(2)).toBeGreaterThan(await distinct(1));
  });

  test('stop strings end a row, whose text ends before them', async () => {
    const [, , full = []] = await continued({ maxNewTokens: 12, eosTokenId: null });
    const whole = tokenizer.decode(full);
    const stop = whole.slice(7, 10);
    const at = whole.indexOf(stop);
    const tokens = [];
    for await (const token of stream(model, [prompts()[2] as number[]], {
      ...{ maxNewTokens: 12, eosTokenId: null, tokenizer, stopStrings: [stop] },
    })) {
      tokens.push(token);
    }
    expect(tokens.map(({ text }) => text).join('')).toBe(whole.slice(0, at));
    expect(tokens.at(-1)?.finishReason).toBe('stop');
    const ids = tokens.map(({ id }) => id);
    expect(ids).toEqual(full.slice(0, ids.length));
    expect(tokenizer.decode(ids)).toContain(stop);
    expect(tokenizer.decode(ids.slice(0, -1))).not.toContain(stop);
  });

  test('numReturnSequences: each prompt is read once and continued that often, each sample from a stream of its own', async () => {
    const options = { doSample: true, maxNewTokens: 6, seed: 4, eosTokenId: null };
    const rows = await generate(model, prompts().slice(0, 2), { ...options, numReturnSequences: 3 });
    expect(rows).toHaveLength(6);
    const [first = [], second = []] = prompts();
    for (const [i, row] of rows.entries()) {
      const prompt = i < 3 ? first : second;
      expect(row.slice(0, prompt.length)).toEqual(prompt);
    }
    expect(new Set(rows.map((row) => row.join())).size).toBe(6);
    expect(await generate(model, [first, first, first], options)).toEqual(rows.slice(0, 3));
  });

  test('rows that end early leave the others as they are', async () => {
    const many = Array.from({ length: 6 }, (_, i) => prompts()[i % 3] as number[]);
    const free = await generate(model, many, { maxNewTokens: 10, eosTokenId: null });
    const eos = [0, 1].map((i) => free[i]?.[(many[i]?.length ?? 0) + 1] as number);
    const rows = await generate(model, many, { maxNewTokens: 10, eosTokenId: eos });
    for (const [i, prompt] of many.entries()) {
      const end = (free[i] as number[]).findIndex((id, t) => t >= prompt.length && eos.includes(id));
      expect(rows[i]).toEqual(end === -1 ? free[i] : free[i]?.slice(0, end + 1));
    }
    expect(rows.some((row, i) => row.length < (free[i] as number[]).length)).toBe(true);
  });

  test('maxNewTokens 0 adds nothing', async () => {
    expect(await generate(model, prompts(), { maxNewTokens: 0 })).toEqual(prompts());
  });

  test('bad options and prompts', async () => {
    await expect(generate(model, [])).rejects.toThrow(/found no prompts/);
    await expect(generate(model, [[1], []])).rejects.toThrow(/prompt 1 has no ids/);
    await expect(generate(model, [[1]], { maxNewTokens: -1 })).rejects.toThrow(/maxNewTokens is -1; expected/);
    await expect(generate(model, [[1]], { topK: 5 })).rejects.toThrow(/topK is 5, but without sampling/);
    await expect(generate(model, [[4096]])).rejects.toThrow(/4096 .*outside 0\.\.4095/);
  });
});
