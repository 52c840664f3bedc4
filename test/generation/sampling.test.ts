// SPDX-License-Identifier: Apache-2.0
/** Sampling: hand-computed cases of transformers' definitions, distributions, reproducibility. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { deviceChoice, rowProcessors, type TokenChooser, tokenChooser } from '../../src/generation/chooser.ts';
import { checkOptions, type GenerateOptions, type SamplingOptions } from '../../src/generation/options.ts';
import { greedy, keepMinP, keepTopK, keepTopP, sample, scaleByTemperature } from '../../src/generation/sampling.ts';
import { createRandom } from '../../src/random.ts';

interface Golden {
  name: string;
  options: GenerateOptions & { promptLength?: number };
  /** Ids of the row so far. */
  history: number[];
  scores: number[];
  /** null where a token is forbidden. */
  expected: (number | null)[];
}

/** By test/parity/make_logits_processors.py. */
const goldens: Golden[] = JSON.parse(readFileSync(join(import.meta.dirname, 'logits_processors.json'), 'utf8'));
const NONE = Number.NEGATIVE_INFINITY;
const floats = (...values: number[]) => Float32Array.from(values);
/** Logits whose softmax is `probabilities`. */
const logitsOf = (...probabilities: number[]) => Float32Array.from(probabilities, Math.log);
const kept = (logits: Float32Array) => [...logits.keys()].filter((id) => logits[id] !== NONE);

describe('greedy', () => {
  test('takes the largest, the first of equal ones', () => {
    expect(greedy(floats(-3, 2, 5, 5, 1))).toBe(2);
    expect(greedy(floats(-9, -7, -8))).toBe(1);
    expect(greedy(floats(NONE, NONE, -8))).toBe(2);
  });
});

test('temperature divides', () => {
  expect([...scaleByTemperature(floats(1, -2, 0.5), 0.5)]).toEqual([2, -4, 1]);
  expect([...scaleByTemperature(floats(1, -2, 0.5), 1)]).toEqual([1, -2, 0.5]);
});

describe('top-k', () => {
  test('keeps the k largest', () => {
    expect([...keepTopK(floats(0.5, 3, -1, 2), 2)]).toEqual([NONE, 3, NONE, 2]);
    expect([...keepTopK(floats(-0.5, -3, -1), 1)]).toEqual([-0.5, NONE, NONE]);
  });

  test('keeps ties with the k-th', () => {
    expect(kept(keepTopK(floats(1, 2, 2, 3), 2))).toEqual([1, 2, 3]);
  });

  test('0 and k beyond the vocabulary keep all', () => {
    expect(kept(keepTopK(floats(1, 2, 3), 0))).toEqual([0, 1, 2]);
    expect(kept(keepTopK(floats(1, 2, 3), 7))).toEqual([0, 1, 2]);
  });
});

describe('top-p', () => {
  const logits = logitsOf(0.1, 0.4, 0.2, 0.3);

  test.each([
    [0, [1]],
    [0.39, [1]],
    [0.5, [1, 3]],
    [0.75, [1, 2, 3]],
    [0.95, [0, 1, 2, 3]],
    [1, [0, 1, 2, 3]],
  ])('p = %f keeps the fewest that reach it', (p, expected) => {
    expect(kept(keepTopP(logits, p))).toEqual(expected);
  });

  test('leaves what it keeps as it was', () => {
    const result = keepTopP(logits, 0.5);
    expect(result[1]).toBe(logits[1]);
    expect(result[3]).toBe(logits[3]);
  });

  test('keeps the lower ids of equal ones at the edge', () => {
    expect(kept(keepTopP(floats(1, 1, 1, 1), 0.3))).toEqual([0, 1]);
    expect(kept(keepTopP(floats(1, 1, 5, 1), 0.01))).toEqual([2]);
  });

  test('counts probabilities after top-k', () => {
    // Of 0.4 and 0.3 the first has 4/7: 0.5 is reached by it alone, though it is not among all four.
    expect(kept(keepTopP(keepTopK(logits, 2), 0.5))).toEqual([1]);
  });
});

describe('min-p', () => {
  const logits = logitsOf(0.1, 0.4, 0.2, 0.3);

  test.each([
    [0, [0, 1, 2, 3]],
    [0.24, [0, 1, 2, 3]],
    [0.26, [1, 2, 3]],
    [0.6, [1, 3]],
    [1, [1]],
  ])('p = %f keeps those at least that many times as likely as the likeliest', (p, expected) => {
    expect(kept(keepMinP(logits, p))).toEqual(expected);
  });
});

describe('what transformers computes', () => {
  test.each(goldens)('$name: $options', ({ options, history, scores, expected }) => {
    let result: Float32Array = Float32Array.from(scores);
    const processors = rowProcessors(options, history.slice(0, options.promptLength ?? history.length), [3, 5]);
    for (const id of history.slice(options.promptLength ?? history.length)) for (const p of processors) p.push(id);
    for (const processor of processors) processor.process(result);
    const { temperature = 1, topK = 0, topP = 1, minP = 0 } = options;
    result = keepMinP(keepTopP(keepTopK(scaleByTemperature(result, temperature), topK), topP), minP);
    const wanted = expected.map((value) => value ?? NONE);
    expect(kept(result)).toEqual(kept(Float32Array.from(wanted)));
    for (const id of kept(result)) expect(result[id]).toBeCloseTo(wanted[id] as number, 5);
  });

  test('every kind is among them', () => {
    const names = new Set(goldens.flatMap(({ options }) => Object.keys(options)));
    for (const name of [
      'temperature',
      'topK',
      'topP',
      'minP',
      'repetitionPenalty',
      'noRepeatNgramSize',
      'minNewTokens',
    ])
      expect(names).toContain(name);
  });
});

const chooseAndTake = (chooser: TokenChooser) => (logits: Float32Array) => {
  const id = chooser.choose(logits);
  chooser.take(id);
  return id;
};

/** Counts of `draws` draws. */
function histogram(options: SamplingOptions, logits: Float32Array, draws = 20_000): number[] {
  const choose = chooseAndTake(tokenChooser({ doSample: true, seed: 7, ...options }, 0));
  const counts = new Array<number>(logits.length).fill(0);
  for (let draw = 0; draw < draws; draw++) {
    const id = choose(logits);
    counts[id] = (counts[id] ?? 0) + 1;
  }
  return counts;
}

/** Pearson's statistic against expected probabilities; infinite when a token of probability 0 was drawn. */
function chiSquare(counts: number[], probabilities: number[]): number {
  const draws = counts.reduce((sum, count) => sum + count, 0);
  return counts.reduce((sum, count, id) => {
    const expected = draws * (probabilities[id] ?? 0);
    if (expected === 0) return count === 0 ? sum : Number.POSITIVE_INFINITY;
    return sum + (count - expected) ** 2 / expected;
  }, 0);
}

describe('distribution of draws', () => {
  const probabilities = [0.05, 0.4, 0.25, 0.3];
  const logits = logitsOf(...probabilities);
  // 99.9 % quantile of chi-square with 3 degrees of freedom.
  const LIMIT = 16.27;

  test('softmax', () => {
    expect(chiSquare(histogram({}, logits), probabilities)).toBeLessThan(LIMIT);
  });

  test('temperature 0.5 squares the probabilities', () => {
    const squares = probabilities.map((p) => p * p);
    const total = squares.reduce((a, b) => a + b);
    const expected = squares.map((p) => p / total);
    const counts = histogram({ temperature: 0.5 }, logits);
    expect(chiSquare(counts, expected)).toBeLessThan(LIMIT);
    expect(chiSquare(counts, probabilities)).toBeGreaterThan(LIMIT);
  });

  test('top-k renormalises', () => {
    expect(chiSquare(histogram({ topK: 2 }, logits), [0, 4 / 7, 0, 3 / 7])).toBeLessThan(LIMIT);
  });

  test('top-p renormalises', () => {
    expect(chiSquare(histogram({ topP: 0.9 }, logits), [0, 0.4 / 0.95, 0.25 / 0.95, 0.3 / 0.95])).toBeLessThan(LIMIT);
  });

  test('topK is 50 by default', () => {
    const counts = histogram(
      {},
      new Float32Array(60).map((_, id) => -id * 1e-3),
    );
    expect(counts.slice(0, 50).every((count) => count > 0)).toBe(true);
    expect(counts.slice(50).every((count) => count === 0)).toBe(true);
  });
});

describe('seeds', () => {
  const logits = new Float32Array(40);
  const draw = (seed: number | undefined, row: number) => {
    const choose = chooseAndTake(tokenChooser({ doSample: true, seed }, row));
    return Array.from({ length: 20 }, () => choose(logits));
  };

  test('the same seed gives the same tokens, another seed or row others', () => {
    expect(draw(3, 0)).toEqual(draw(3, 0));
    expect(draw(3, 0)).not.toEqual(draw(4, 0));
    expect(draw(3, 0)).not.toEqual(draw(3, 1));
  });

  test('a choice that is not taken leaves the next one as it is; who else has chosen is told', () => {
    const expected = draw(3, 1);
    const chooser = tokenChooser({ doSample: true, seed: 3 }, 1, [39]);
    for (const [position, id] of expected.entries()) {
      expect(chooser.position).toBe(position);
      if (position % 3 > 0) expect([chooser.choose(logits), chooser.choose(logits)]).toEqual([id, id]);
      chooser.take(id);
    }
    expect(chooser.seen).toEqual(new Set([39, ...expected]));
  });

  test('without a seed every call differs', () => {
    expect(draw(undefined, 0)).not.toEqual(draw(undefined, 0));
  });

  test('a draw takes one number', () => {
    const random = createRandom({ seed: 1 });
    sample(logits, random);
    expect(random.state().position).toBe(1);
  });
});

describe('processors in the choice', () => {
  test('what was chosen counts as what was read', () => {
    const logits = floats(1, 3, 2, 0);
    const choose = chooseAndTake(tokenChooser({ noRepeatNgramSize: 1 }, 0, [1]));
    expect([choose(logits), choose(logits), choose(logits)]).toEqual([2, 0, 3]);
    expect(() => choose(logits)).toThrow(/leave no token to choose/);
    expect([...logits]).toEqual([1, 3, 2, 0]);
  });

  test('the end is forbidden for minNewTokens tokens', () => {
    const choose = chooseAndTake(tokenChooser({ minNewTokens: 2 }, 0, [7, 7, 7], [1, 9]));
    const logits = floats(1, 3, 2);
    expect([choose(logits), choose(logits), choose(logits)]).toEqual([2, 2, 1]);
  });

  test('a repetition penalty counts a token once, however often it came', () => {
    const choose = chooseAndTake(tokenChooser({ repetitionPenalty: 1.5 }, 0, [1, 1, 1]));
    expect(choose(floats(1, 3, 2.1))).toBe(2);
    expect(choose(floats(1, 3, 1.9))).toBe(1);
  });
});

describe('what a device is asked for', () => {
  const draw = { temperature: 1, topK: 50, topP: 1, minP: 0, repetitionPenalty: 1, seed: 3, stream: 4 };
  test.each<[GenerateOptions, ReturnType<typeof deviceChoice>]>([
    [{ maxNewTokens: 5 }, 'likeliest'],
    [
      { doSample: true, seed: 3 },
      { doSample: true, ...draw },
    ],
    [
      { doSample: true, seed: 3, temperature: 0.7, topK: 0, topP: 0.9, minP: 0.1, repetitionPenalty: 2 },
      { doSample: true, ...draw, temperature: 0.7, topK: 0, topP: 0.9, minP: 0.1, repetitionPenalty: 2 },
    ],
    [
      { repetitionPenalty: 1.2, seed: 3 },
      { doSample: false, ...draw, repetitionPenalty: 1.2 },
    ],
    [{ noRepeatNgramSize: 2 }, undefined],
    [{ doSample: true, minNewTokens: 1 }, undefined],
  ])('%j: %j', (options, expected) => {
    expect(deviceChoice(options)).toEqual(expected);
  });
});

describe('options', () => {
  test('one error names every wrong one', () => {
    const options = { doSample: true, temperature: 0, topK: -1, topP: 1.5, seed: 0.5 };
    expect(() => checkOptions(options)).toThrow(
      /temperature is 0; .*topK is -1; .*topP is 1.5; .*seed is 0.5; expected a whole number/,
    );
  });

  test.each<[GenerateOptions, RegExp]>([
    [{ maxNewTokens: -1 }, /maxNewTokens is -1; expected a whole number from 0/],
    [{ minNewTokens: 1.5 }, /minNewTokens is 1.5; expected a whole number from 0/],
    [{ minNewTokens: 5, maxNewTokens: 3 }, /minNewTokens is 5, more than maxNewTokens, 3/],
    [{ repetitionPenalty: 0 }, /repetitionPenalty is 0; expected a number above 0/],
    [{ noRepeatNgramSize: -1 }, /noRepeatNgramSize is -1; expected a whole number from 1, or 0/],
    [{ numReturnSequences: 0 }, /numReturnSequences is 0; expected a whole number from 1/],
    [{ numReturnSequences: 2 }, /numReturnSequences is 2, but without sampling \(doSample\) all would be equal/],
    [{ padTokenId: -1 }, /padTokenId is -1; expected a token id/],
    [{ eosTokenId: [1, 0.5] }, /eosTokenId is 0.5; expected a token id/],
    [{ stopStrings: ['a'] }, /stopStrings need the tokenizer/],
    [{ stopStrings: [''] }, /stopStrings has an empty text/],
    [{ minP: 0.5 }, /minP is 0.5, but without sampling/],
    [{ doSample: true, minP: 2 }, /minP is 2; expected a number from 0 to 1/],
  ])('%j is refused', (options, message) => {
    expect(() => checkOptions(options)).toThrow(message);
  });

  test('none is ignored without sampling', () => {
    expect(() => checkOptions({ temperature: 0.7 })).toThrow(/temperature is 0.7, but without sampling/);
    expect(() => checkOptions({ doSample: false })).not.toThrow();
  });
});

test.each([{}, { doSample: true }, { doSample: true, topP: 0.5 }, { doSample: true, topK: 1 }])(
  'a logit that is not a number is an error, with %j',
  (options) => {
    expect(() => tokenChooser(options, 0).choose(floats(1, Number.NaN, 2))).toThrow(/not a number \(token 1\)/);
  },
);
