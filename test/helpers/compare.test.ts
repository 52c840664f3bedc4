// SPDX-License-Identifier: Apache-2.0
/** The comparison that other tests trust. */
import { describe, expect, it } from 'vitest';
import { expectClose } from './compare.ts';

describe('expectClose', () => {
  it('measures against the largest expected magnitude and reports the share used', () => {
    expect(expectClose([100, 1e-3], [100, 0], { rtol: 1e-4 })).toBeCloseTo(0.1, 10);
    expect(() => expectClose([100, 2e-2], [100, 0], { rtol: 1e-4 })).toThrow(
      /worst at index 1 of 2: got 0.02, expected 0; 2.00 times/,
    );
  });

  it('accepts equal values without any tolerance', () => {
    expect(expectClose([0, -0, 2], [0, 0, 2], { rtol: 0 })).toBe(0);
    expect(() => expectClose([1e-30], [0], { rtol: 1 })).toThrow(/worst at index 0/);
  });

  it.each([
    [Number.NaN, 1],
    [Number.POSITIVE_INFINITY, 1],
    [1, Number.NaN],
    [1, Number.POSITIVE_INFINITY],
    [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY],
    [Number.NaN, Number.POSITIVE_INFINITY],
  ])('refuses %d where %d is expected', (actual, expected) => {
    expect(() => expectClose([0, actual], [0, expected], { rtol: 10, atol: 10 })).toThrow(/worst at index 1/);
  });

  it('accepts a non-finite value where the same one is expected', () => {
    expect(expectClose([Number.NaN, Number.NEGATIVE_INFINITY, 1], [Number.NaN, Number.NEGATIVE_INFINITY, 1])).toBe(0);
  });

  it('refuses another length', () => {
    expect(() => expectClose([1], [1, 2], { name: 'du' })).toThrow('du: 1 elements, expected 2');
  });
});
