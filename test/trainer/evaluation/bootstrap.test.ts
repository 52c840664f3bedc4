// SPDX-License-Identifier: Apache-2.0
/** Paired intervals: seeded, narrow for paired data, and covering what they say. */
import { describe, expect, it } from 'vitest';
import { createRandom } from '../../../src/random.ts';
import { pairedDifferences } from '../../../trainer/evaluation/bootstrap.ts';
import { meanOf } from '../../../trainer/evaluation/job.ts';

const metrics = [{ name: 'loss', higherIsBetter: false, of: meanOf(1) }];
const options = { samples: 1000, confidence: 0.95, seed: 0 };

/** Units of one token each, whose mean differs from the base's by `shift` but for noise. */
function units(count: number, shift: number, noise: number, seed: number) {
  const random = createRandom({ seed });
  const base = Array.from({ length: count }, () => Float64Array.of(1, 10 * random.normal()));
  const model = base.map(([, loss = 0]) => Float64Array.of(1, loss + shift + noise * random.normal()));
  return { base, model };
}

/** The difference of one model, which has an interval. */
function intervalOf(base: Float64Array[], model: Float64Array[], changes: Partial<typeof options> = {}) {
  const difference = pairedDifferences(base, [model], metrics, { ...options, ...changes })[0]?.[0];
  if (difference?.low == null || difference.high == null) throw new Error('no interval');
  return { value: difference.value, low: difference.low, high: difference.high };
}

describe('pairedDifferences', () => {
  it('weights units by their tokens', () => {
    const base = [Float64Array.of(1, 4), Float64Array.of(3, 3)];
    const model = [Float64Array.of(1, 3), Float64Array.of(3, 6)];
    expect(pairedDifferences(base, [model, base], metrics, options)).toMatchObject([
      [{ value: 9 / 4 - 7 / 4 }],
      [{ value: 0, low: 0, high: 0 }],
    ]);
  });

  it('gives the interval of the normal distribution where there are many units, and the same for the same seed', () => {
    const { base, model } = units(500, -0.3, 0.5, 2);
    const found = intervalOf(base, model);
    expect(found.value).toBeCloseTo(-0.3, 1);
    const half = 1.96 * (0.5 / Math.sqrt(500));
    expect(found.high - found.low).toBeGreaterThan(2 * half * 0.85);
    expect(found.high - found.low).toBeLessThan(2 * half * 1.15);
    expect(pairedDifferences(base, [model], metrics, options)).toEqual([[found]]);
    expect(pairedDifferences(base, [model], metrics, { ...options, seed: 1 })).not.toEqual([[found]]);
    const wide = intervalOf(base, model, { confidence: 0.99 });
    expect(wide.low).toBeLessThan(found.low);
    expect(wide.high).toBeGreaterThan(found.high);
  });

  it('covers the true difference about as often as it says', () => {
    let covered = 0;
    for (let seed = 0; seed < 100; seed++) {
      const { base, model } = units(60, 0.2, 1, 100 + seed);
      const { low, high } = intervalOf(base, model, { samples: 200, seed });
      if (low <= 0.2 && 0.2 <= high) covered += 1;
    }
    expect(covered).toBeGreaterThanOrEqual(87);
    expect(covered).toBeLessThan(100);
  });

  it('has no interval for one unit alone', () => {
    expect(pairedDifferences([Float64Array.of(2, 3)], [[Float64Array.of(2, 4)]], metrics, options)).toEqual([
      [{ value: 0.5, low: null, high: null }],
    ]);
  });
});
