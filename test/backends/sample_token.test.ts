// SPDX-License-Identifier: Apache-2.0
/** Draws on the device against the host's rules in float64, src/generation/sampling.ts, with the same random numbers. */
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import { NO_TOKEN, NOT_A_NUMBER, sampleToken, type TokenDraw } from '../../src/backends/token_choice.ts';
import { type DeviceChoice, deviceChoice, tokenChooser } from '../../src/generation/chooser.ts';
import type { GenerateOptions } from '../../src/generation/options.ts';
import { forEachDevice } from '../helpers/backends.ts';
import { operandSource } from '../helpers/random_tensors.ts';

const SLOTS = 3;
const ROUNDS = 4;
const NONE = Number.NEGATIVE_INFINITY;

interface Drawn {
  /** The token of each row, round by round. */
  tokens: number[][];
  choices: number[];
  counts: number[];
  positions: number[];
  seen: number[];
}

/** Rounds of draws by the same logits; rows draw from the substreams 5, 6 ..., from the number `position` on. */
function drawRounds(
  rows: readonly Float32Array[],
  choice: DeviceChoice,
  position: number,
  prompts?: number[][],
): Drawn {
  const columns = rows[0]?.length as number;
  const words = Math.ceil(columns / 32);
  const bits = new Int32Array(rows.length * words);
  for (const [row, prompt] of (prompts ?? []).entries()) {
    for (const id of prompt)
      bits[row * words + (id >> 5)] = (bits[row * words + (id >> 5)] as number) | (1 << (id & 31));
  }
  const tensors = {
    logits: tf.tensor2d(Float32Array.from(rows.flatMap((row) => [...row])), [rows.length, columns]),
    substreams: tf.tensor1d(
      rows.map((_, row) => 5 + row),
      'int32',
    ),
    positions: tf.fill([rows.length], position, 'int32'),
    seen: tf.tensor2d(bits, [rows.length, words], 'int32'),
    tokens: tf.fill([rows.length, 1], 9, 'int32'),
    choices: tf.fill([SLOTS, rows.length], 9, 'int32'),
    counts: tf.fill([rows.length], 5, 'int32'),
  };
  const { logits, seen, ...others } = tensors;
  const tokens = Array.from({ length: ROUNDS }, () => {
    sampleToken(logits, choice as TokenDraw, { ...others, ...(prompts && { seen }) }, others);
    return [...others.tokens.dataSync()];
  });
  const values = (tensor: tf.Tensor) => [...tensor.dataSync()];
  const drawn = {
    tokens,
    choices: values(others.choices),
    counts: values(others.counts),
    positions: values(others.positions),
    seen: values(seen),
  };
  tf.dispose(Object.values(tensors));
  return drawn;
}

/** What the host draws. */
function hostRounds(rows: readonly Float32Array[], options: GenerateOptions, position: number, prompts?: number[][]) {
  const choosers = rows.map((_, row) => {
    const chooser = tokenChooser(options, 5 + row);
    for (let i = 0; i < position; i++) chooser.take(0);
    return chooser;
  });
  const penalised = rows.map((_, row) => tokenChooser(options, 5 + row, prompts?.[row]));
  return Array.from({ length: ROUNDS }, () =>
    rows.map((logits, row) => {
      const chooser = (prompts ? penalised : choosers)[row] as (typeof choosers)[number];
      const id = chooser.choose(logits);
      chooser.take(id);
      return id;
    }),
  );
}

function expectHosts(rows: readonly Float32Array[], options: GenerateOptions, position = 0): void {
  const seeded = { doSample: true, seed: 2 ** 33 + 3, ...options };
  const { tokens } = drawRounds(rows, deviceChoice(seeded) as DeviceChoice, position);
  expect(tokens).toEqual(hostRounds(rows, seeded, position));
}

const OPTIONS: GenerateOptions[] = [
  {},
  { topK: 0 },
  { topK: 1 },
  { topK: 3, topP: 0.6 },
  { topK: 5000, temperature: 2 },
  { topK: 0, topP: 0.9 },
  { topK: 0, topP: 0.99, minP: 0.01 },
  { topK: 0, topP: 0 },
  { topK: 0, minP: 0.3 },
  { topK: 40, topP: 0.95, minP: 0.02, temperature: 0.7 },
];

forEachDevice(() => {
  describe.each(OPTIONS)('%j', (options) => {
    it.each([1, 2, 31, 33, 97, 1000, 4099])('of %d logits', (columns) => {
      const source = operandSource(columns);
      const rows = [0.01, 1, 6].map((deviation) => source.normal([columns], deviation).values as Float32Array);
      expectHosts(rows, options, columns % 7);
    });

    it('of equal and forbidden logits', () => {
      const source = operandSource(2);
      const rounded = source.normal([3001], 1.5).values.map((value) => Math.round(value)) as Float32Array;
      const alone = new Float32Array(3001).fill(NONE);
      alone[2999] = -7;
      const few = rounded.map((value, id) => (id % 40 === 7 ? value : NONE));
      const zeros = new Float32Array(3001).map((_, id) => (id % 2 ? 0 : -0));
      const infinite = rounded.map((value, id) => (id === 2000 || id === 2500 ? Number.POSITIVE_INFINITY : value));
      expectHosts([rounded, alone, few, zeros, infinite], options);
    });

    it.each([1e-300, 1e-3, 50, 1e300])('at a temperature of %d', (temperature) => {
      // A number of logits at which no sum of equal ones meets top_p exactly, where rounding would decide.
      const row = operandSource(3).normal([601], 2, 1).values as Float32Array;
      expectHosts([row, row], { ...options, temperature });
    });
  });

  it.each([{}, { topK: 0 }, { topK: 5000, topP: 0.9 }, { topK: 0, topP: 0.9 }])(
    'of 50,280 logits, sharp and flat, with %j',
    (options) => {
      const source = operandSource(1);
      const rows = [0.3, 3].map((deviation) => source.normal([50_280], deviation, -5).values as Float32Array);
      expectHosts(rows, options, 1);
    },
  );

  it('takes the logits that top_p keeps of many equal ones from the front', () => {
    const logits = new Float32Array(9000);
    const choice = deviceChoice({ doSample: true, seed: 1, topK: 0, topP: 0.25 }) as DeviceChoice;
    const { tokens } = drawRounds(new Array(40).fill(logits), choice, 0);
    expect(Math.max(...tokens.flat())).toBeGreaterThan(2200);
    expect(Math.max(...tokens.flat())).toBeLessThan(2251);
  });

  it.each<GenerateOptions>([{ doSample: true, topK: 20 }, { doSample: true, topK: 0 }, {}])(
    'penalises what the row has, its own choices too, with %j',
    (options) => {
      const rows = [1, 3].map((seed) => operandSource(seed).normal([300], 3).values as Float32Array);
      const best = rows.map((row) => row.indexOf(Math.max(...row)));
      const prompts = best.map((id) => [id, 17, 299]);
      const seeded = { repetitionPenalty: 1.7, ...options, ...(options.doSample && { seed: 8 }) };
      const { tokens, seen } = drawRounds(rows, deviceChoice(seeded) as DeviceChoice, 0, prompts);
      expect(tokens).toEqual(hostRounds(rows, seeded, 0, prompts));
      for (const [row, prompt] of prompts.entries()) {
        const ids = new Set([...prompt, ...tokens.map((round) => round[row] as number)]);
        const marked = Array.from({ length: 320 }, (_, id) => id).filter(
          (id) => ((seen[row * 10 + (id >> 5)] as number) >> (id & 31)) & 1,
        );
        expect(marked).toEqual([...ids].sort((a, b) => a - b));
      }
    },
  );

  it('counts up, and keeps the choices of the last rounds in their slots', () => {
    const rows = [4, 5].map((seed) => operandSource(seed).normal([50]).values as Float32Array);
    const choice = deviceChoice({ doSample: true, seed: 1 }) as DeviceChoice;
    const { tokens, choices, counts, positions } = drawRounds(rows, choice, 2 ** 31 - 2);
    expect(counts).toEqual([9, 9]);
    expect(positions).toEqual([2 - 2 ** 31, 2 - 2 ** 31]);
    // Round 0 has the number 5.
    expect(choices).toEqual([tokens[1], tokens[2], tokens[3]].flat());
  });

  it.each<GenerateOptions>([
    { topK: 0 },
    { topK: 2 },
    { topK: 0, topP: 0.5 },
    { doSample: false, repetitionPenalty: 2 },
  ])('says where a logit is NaN and where nothing is left, with %j', (options) => {
    const row = (...values: number[]) => Float32Array.from({ length: 43 }, (_, id) => values[id] ?? NONE);
    const rows = [row(1, Number.NaN), row(NONE), row(NONE, NONE, 3), row(Number.POSITIVE_INFINITY, Number.NaN)];
    const choice = deviceChoice({ doSample: true, seed: 1, ...options }) as DeviceChoice;
    const { tokens, choices } = drawRounds(rows, choice, 0);
    expect(tokens).toEqual(new Array(ROUNDS).fill([0, 0, 2, 0]));
    expect(choices.slice(-4)).toEqual([NOT_A_NUMBER, NO_TOKEN, 2, NOT_A_NUMBER]);
  });

  it.each<[GenerateOptions, number[]]>([
    [{ topK: 0 }, [0.05, 0.4, 0.25, 0.3]],
    [{ topK: 2 }, [0, 4 / 7, 0, 3 / 7]],
    [{ topK: 0, topP: 0.9 }, [0, 0.4 / 0.95, 0.25 / 0.95, 0.3 / 0.95]],
  ])('the distribution of draws with %j', (options, probabilities) => {
    const logits = Float32Array.from([0.05, 0.4, 0.25, 0.3], Math.log);
    const choice = deviceChoice({ doSample: true, seed: 12, ...options }) as DeviceChoice;
    const drawn = drawRounds(new Array(2500).fill(logits), choice, 0).tokens.flat();
    const statistic = probabilities.reduce((sum, probability, id) => {
      const count = drawn.filter((each) => each === id).length;
      const expected = drawn.length * probability;
      if (expected === 0) return count === 0 ? sum : Number.POSITIVE_INFINITY;
      return sum + (count - expected) ** 2 / expected;
    }, 0);
    // 99.9 % quantile of chi-square with 3 degrees of freedom.
    expect(statistic).toBeLessThan(16.27);
  });
});
