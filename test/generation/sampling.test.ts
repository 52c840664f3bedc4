// SPDX-License-Identifier: Apache-2.0
/** Sampling: hand-computed cases of transformers' definitions, distributions, reproducibility. */
import { describe, expect, test } from 'vitest';
import {
  checkSamplingOptions,
  greedy,
  keepTopK,
  keepTopP,
  type SamplingOptions,
  sample,
  scaleByTemperature,
  tokenChooser,
} from '../../src/generation/sampling.ts';
import { createRandom } from '../../src/random.ts';

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

/** Counts of `draws` draws. */
function histogram(options: SamplingOptions, logits: Float32Array, draws = 20_000): number[] {
  const choose = tokenChooser({ doSample: true, seed: 7, ...options }, 0);
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
    const choose = tokenChooser({ doSample: true, seed }, row);
    return Array.from({ length: 20 }, () => choose(logits));
  };

  test('the same seed gives the same tokens, another seed or row others', () => {
    expect(draw(3, 0)).toEqual(draw(3, 0));
    expect(draw(3, 0)).not.toEqual(draw(4, 0));
    expect(draw(3, 0)).not.toEqual(draw(3, 1));
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

describe('options', () => {
  test('one error names every wrong one', () => {
    const options = { doSample: true, temperature: 0, topK: -1, topP: 1.5, seed: 0.5 };
    expect(() => checkSamplingOptions(options)).toThrow(
      /temperature is 0; .*topK is -1; .*topP is 1.5; .*seed is 0.5; expected a whole number/,
    );
  });

  test('none is ignored without sampling', () => {
    expect(() => checkSamplingOptions({ temperature: 0.7 })).toThrow(/temperature is 0.7, but without sampling/);
    expect(() => checkSamplingOptions({ doSample: false })).not.toThrow();
  });
});

test.each([{}, { doSample: true }, { doSample: true, topP: 0.5 }, { doSample: true, topK: 1 }])(
  'a logit that is not a number is an error, with %j',
  (options) => {
    expect(() => tokenChooser(options, 0)(floats(1, Number.NaN, 2))).toThrow(/not a number \(token 1\)/);
  },
);
