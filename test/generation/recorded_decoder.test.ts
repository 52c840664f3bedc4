// SPDX-License-Identifier: Apache-2.0
/** The recorded decoder where no device records: a launch runs the computation again, into the tensors of the first. */
import { join } from 'node:path';
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { beforeEach, expect, it, vi } from 'vitest';
import { selectBackend } from '../../src/backends/select.ts';
import type { TokenDraw } from '../../src/backends/token_choice.ts';
import { deviceChoice, tokenChooser } from '../../src/generation/chooser.ts';
import { createDecoder, type Decoder } from '../../src/generation/decoder.ts';
import { type GenerateOptions, generate } from '../../src/generation/index.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts';
import { readGolden } from '../golden/golden.ts';

const graphs = vi.hoisted(() => ({ canRecord: true, recordings: 0, launches: 0 }));

vi.mock(import('../../src/backends/graphs.ts'), async (importOriginal) => {
  const original = await importOriginal();
  return {
    ...original,
    canRecord: () => graphs.canRecord,
    record: <T extends Tensor[]>(f: () => T) => {
      graphs.recordings++;
      let outputs: T | undefined;
      return {
        get outputs(): T {
          return outputs as T;
        },
        launch: () => {
          graphs.launches++;
          const results = tf.tidy(f);
          for (const [i, result] of results.entries()) {
            if (outputs) original.copyInto(outputs[i] as Tensor, 0, result);
            else tf.keep(result);
          }
          if (outputs) tf.dispose(results);
          outputs ??= results;
        },
        release: () => tf.dispose(outputs ?? []),
      };
    },
  };
});

const DRAW = deviceChoice({ doSample: true, seed: 1 }) as TokenDraw;

if (process.env.MAMBATUNE_TEST_WITHOUT_NATIVE !== '1' && process.env.MAMBATUNE_TEST_CUDA !== '1') {
  beforeEach(async () => {
    Object.assign(graphs, { canRecord: true, recordings: 0, launches: 0 });
    await selectBackend('native');
  });

  const PROMPTS = [
    [1, 2, 3, 4, 5],
    [7, 8, 9],
  ];

  async function withModel<T>(f: (model: MambaForCausalLM) => Promise<T>): Promise<T> {
    const model = await MambaForCausalLM.fromPretrained(join(readGolden('tied').folder, 'model'), {
      backend: 'native',
    });
    try {
      return await f(model);
    } finally {
      model.dispose();
    }
  }

  it('greedy: the same tokens as op by op, in few readings, and nothing is left behind', async () => {
    await withModel(async (model) => {
      const options = { maxNewTokens: 40, eosTokenId: null };
      graphs.canRecord = false;
      const expected = await generate(model, PROMPTS, options);
      graphs.canRecord = true;
      const before = tf.memory().numTensors;
      expect(await generate(model, PROMPTS, options)).toEqual(expected);
      expect(graphs.recordings).toBe(1);
      // The prompt gives the first token, the step that runs as it comes the second.
      expect(graphs.launches).toBe(38);
      expect(tf.memory().numTensors).toBe(before);
    });
  });

  it.each<GenerateOptions>([
    { doSample: true, seed: 5, topK: 20, topP: 0.9, temperature: 6 },
    { doSample: true, seed: 6, topK: 0, topP: 0.8, temperature: 8 },
    { doSample: true, seed: 7, topK: 0, temperature: 4, repetitionPenalty: 1.5 },
    { repetitionPenalty: 1.3 },
    // What only the host can do: each step is read.
    { doSample: true, seed: 8, noRepeatNgramSize: 2 },
    { doSample: true, seed: 9, minNewTokens: 12 },
  ])('%j: the same tokens as op by op', async (asked) => {
    await withModel(async (model) => {
      const options = { maxNewTokens: 40, eosTokenId: null, ...asked };
      graphs.canRecord = false;
      const expected = await generate(model, PROMPTS, options);
      graphs.canRecord = true;
      const before = tf.memory().numTensors;
      expect(await generate(model, PROMPTS, options)).toEqual(expected);
      expect([graphs.recordings, graphs.launches]).toEqual([1, 38]);
      expect(tf.memory().numTensors).toBe(before);
    });
  });

  it.each<GenerateOptions>([{}, { repetitionPenalty: 1.4 }])(
    'with chance and %j: samples that end early leave the others as they are',
    async (asked) => {
      await withModel(async (model) => {
        const options = {
          doSample: true,
          seed: 2,
          temperature: 6,
          topK: 0,
          numReturnSequences: 3,
          maxNewTokens: 45,
          ...asked,
        };
        graphs.canRecord = false;
        const free = await generate(model, PROMPTS, { ...options, eosTokenId: null });
        const eosTokenId = [9, 13, 21].map((place, row) => free[row + 1]?.[place] as number);
        const expected = await generate(model, PROMPTS, { ...options, eosTokenId });
        const lengths = new Set(expected.map((row) => row.length));
        expect(lengths.size).toBeGreaterThan(2);
        graphs.canRecord = true;
        expect(await generate(model, PROMPTS, { ...options, eosTokenId })).toEqual(expected);
        expect(graphs.recordings).toBeGreaterThan(1);
      });
    },
  );

  it('with chance: stop strings end a row where they do op by op', async () => {
    const model = await MambaForCausalLM.fromPretrained('models/mamba-5m', { backend: 'native' });
    const tokenizer = loadTokenizer('models/mamba-5m');
    const prompts = tokenizer(['politician, n.', 'weather, n. The state of the air and']).inputIds;
    const options = { doSample: true, seed: 3, topP: 0.9, maxNewTokens: 40, eosTokenId: null, tokenizer };
    graphs.canRecord = false;
    const [, free = []] = await generate(model, prompts, options);
    const stop = tokenizer.decode(free.slice(-20)).slice(5, 8);
    const expected = await generate(model, prompts, { ...options, stopStrings: [stop] });
    expect(expected[1]?.length).toBeLessThan(free.length);
    graphs.canRecord = true;
    expect(await generate(model, prompts, { ...options, stopStrings: [stop] })).toEqual(expected);
    model.dispose();
  });

  it('a row that ends early leaves the others as they are', async () => {
    await withModel(async (model) => {
      graphs.canRecord = false;
      const [first, second] = await generate(model, PROMPTS, { maxNewTokens: 30, eosTokenId: null });
      const eosTokenId = (first as number[])[12] as number;
      const options = { maxNewTokens: 30, eosTokenId };
      const expected = await generate(model, PROMPTS, options);
      expect(expected).not.toEqual([first, second]);
      graphs.canRecord = true;
      expect(await generate(model, PROMPTS, options)).toEqual(expected);
    });
  });

  it('runs on while the choices of a series are taken, as far as it may, and refuses what would see that', async () => {
    await withModel(async (model) => {
      const decoder = createDecoder(model);
      await decoder.prefill([[1, 2, 3]]);
      let token = 4;
      const choosers = [tokenChooser({}, 0)];
      const take = async (most: number) => {
        const choices = (await decoder.runAhead?.([token], most, choosers, 'likeliest')) as Int32Array[];
        token = (choices.at(-1) as Int32Array)[0] as number;
        return choices.length;
      };
      expect(await take(20)).toBe(1);
      expect([await take(19), graphs.launches]).toEqual([1, 3]);
      await expect(decoder.step([token])).rejects.toThrow('step: the decoder has run ahead');
      expect(() => decoder.copyState()).toThrow('copyState: the decoder has run ahead');
      await expect(decoder.runAhead?.([token], 18, choosers, DRAW)).rejects.toThrow('runAhead by another choice');
      await expect(decoder.runAhead?.([token + 1], 18, choosers, 'likeliest')).rejects.toThrow(
        `expected ${token}, after which`,
      );
      expect([await take(18), graphs.launches]).toEqual([2, 7]);
      expect([await take(16), graphs.launches]).toEqual([4, 15]);
      expect([await take(12), graphs.launches]).toEqual([8, 19]);
      expect([await take(4), graphs.launches]).toEqual([4, 19]);
      decoder.copyState().dispose();
      decoder.dispose();
    });
  });

  it('rows can be chosen anew while it runs ahead', async () => {
    await withModel(async (model) => {
      const run = async (rows?: number[]) => {
        const decoder = createDecoder(model);
        await decoder.prefill([
          [1, 2, 3],
          [4, 5, 6],
        ]);
        const seen: number[][] = [];
        let tokens = [7, 8];
        let choosers = tokens.map((_, row) => tokenChooser({}, row));
        while (seen.length < 30) {
          const choices = (await decoder.runAhead?.(tokens, 30 - seen.length, choosers, 'likeliest')) as Int32Array[];
          tokens = [...(choices.at(-1) as Int32Array)];
          seen.push(...choices.map((each) => [...each]));
          if (seen.length === 4 && rows) {
            decoder.selectRows(rows);
            tokens = rows.map((row) => tokens[row] as number);
            choosers = rows.map((row) => tokenChooser({}, row));
          }
        }
        decoder.dispose();
        return seen;
      };
      const expected = await run();
      const seen = await run([1, 1, 0]);
      expect(seen).toEqual(expected.map(([first, second], i) => (i < 4 ? [first, second] : [second, second, first])));
    });
  });

  it('copies of the state stand still, rows can be chosen anew, and a prompt can follow', async () => {
    await withModel(async (model) => {
      const run = async (decoder: Decoder) => {
        const seen: Float32Array[] = [];
        const keep = (logits: Float32Array) => seen.push(logits.slice());
        keep(
          await decoder.prefill([
            [1, 2, 3],
            [4, 5, 6],
          ]),
        );
        for (const id of [7, 8, 9]) keep(await decoder.step([id, id + 1]));
        const copy = decoder.copyState();
        keep(await decoder.step([10, 11]));
        const other = createDecoder(model, copy);
        copy.dispose();
        keep(await other.step([10, 11]));
        decoder.selectRows([1, 1, 0]);
        for (const id of [12, 13, 14]) keep(await decoder.step([id, id, id]));
        keep(
          await decoder.prefill([
            [1, 2],
            [3, 4],
            [5, 6],
          ]),
        );
        decoder.dispose();
        other.dispose();
        return seen;
      };
      graphs.canRecord = false;
      const expected = await run(createDecoder(model));
      graphs.canRecord = true;
      const before = tf.memory().numTensors;
      expect(await run(createDecoder(model))).toEqual(expected);
      expect(tf.memory().numTensors).toBe(before);
      expect(graphs.recordings).toBe(2);
    });
  });

  it('refuses ids outside the vocabulary', async () => {
    await withModel(async (model) => {
      const decoder = createDecoder(model);
      await decoder.prefill([[1, 2, 3]]);
      for (const id of [4, 5]) await decoder.step([id]);
      const { vocabSize } = model.config;
      await expect(decoder.step([vocabSize])).rejects.toThrow(
        `${vocabSize} at position 0 lies outside 0..${vocabSize - 1}`,
      );
      decoder.dispose();
    });
  });

  it.each<GenerateOptions>([{}, { doSample: true, seed: 1 }])(
    'says when the model gives what is not a number, with %j',
    async (options) => {
      await withModel(async (model) => {
        const decoder = createDecoder(model);
        await decoder.prefill([[1, 2, 3]]);
        const choosers = [tokenChooser(options, 0)];
        const choice = deviceChoice(options) as NonNullable<ReturnType<typeof deviceChoice>>;
        const run = async (token: number) =>
          (await decoder.runAhead?.([token], 1, choosers, choice))?.[0]?.[0] as number;
        const token = await run(await run(4));
        const norm = model.parameters.get('backbone.norm_f.weight') as tf.Variable;
        norm.assign(tf.fill(norm.shape, Number.NaN));
        await expect(run(token)).rejects.toThrow('the model gave a logit that is not a number. Its weights');
        decoder.dispose();
      });
    },
  );

  it('a decoder that is asked for another choice starts anew', async () => {
    await withModel(async (model) => {
      const run = async () => {
        const decoder = createDecoder(model);
        await decoder.prefill([[1, 2, 3]]);
        const seen: number[] = [];
        let token = 4;
        for (const options of [{}, { doSample: true, seed: 1, temperature: 6 }, { doSample: true, seed: 2, topK: 3 }]) {
          const chooser = tokenChooser(options, 0);
          const choice = deviceChoice(options) as NonNullable<ReturnType<typeof deviceChoice>>;
          for (let left = 5; left > 0; ) {
            const choices = (await decoder.runAhead?.([token], left, [chooser], choice)) ?? [
              Int32Array.of(chooser.choose(await decoder.step([token]))),
            ];
            left -= choices.length;
            for (const each of choices) {
              token = each[0] as number;
              chooser.take(token);
              seen.push(token);
            }
          }
        }
        decoder.dispose();
        return seen;
      };
      graphs.canRecord = false;
      const expected = await run();
      graphs.canRecord = true;
      expect(await run()).toEqual(expected);
      expect(graphs.recordings).toBe(3);
    });
  });
} else {
  it('needs the native backend alone', () => {
    expect([process.env.MAMBATUNE_TEST_WITHOUT_NATIVE, process.env.MAMBATUNE_TEST_CUDA]).toContain('1');
  });
}
