// SPDX-License-Identifier: Apache-2.0
/** Axes and curves of the report. */
import { describe, expect, it } from 'vitest';
import { createScale, needsLog, smooth, thin, tickLabels } from '../../../src/logging/report/scale.ts';

describe('a scale', () => {
  it('has round ticks within its range', () => {
    expect(createScale([0, 120]).ticks).toEqual([0, 20, 40, 60, 80, 100, 120]);
    expect(createScale([3.43, 4.6]).ticks).toEqual([3.6, 3.8, 4, 4.2, 4.4, 4.6]);
    expect(createScale([0, 0.002]).ticks).toEqual([0, 0.0005, 0.001, 0.0015, 0.002]);
    expect(createScale([-1, 1]).ticks).toEqual([-1, -0.5, 0, 0.5, 1]);
  });

  it('labels them with the same number of places', () => {
    const labels = (...values: number[]) => tickLabels(createScale(values));
    expect(labels(0, 0.002)).toEqual(['0.0000', '0.0005', '0.0010', '0.0015', '0.0020']);
    expect(labels(3.4, 5)).toEqual(['3.5', '4.0', '4.5', '5.0']);
    expect(labels(0, 12_000)).toEqual(['0', '2,000', '4,000', '6,000', '8,000', '10,000', '12,000']);
    expect(labels(0, 5e-5)).toEqual(['0', '1e-5', '2e-5', '3e-5', '4e-5', '5e-5']);
  });

  it('leaves room above and below, and begins at zero when that is near', () => {
    expect(createScale([3.4, 4.6], { pad: true })).toMatchObject({ low: 3.4 - 0.072, high: 4.672 });
    expect(createScale([1, 9], { pad: true }).low).toBe(0);
    expect(createScale([5], { pad: true })).toMatchObject({ low: 4.5, high: 5.5 });
    expect(createScale([0], { pad: true })).toMatchObject({ low: -0.5, high: 0.5 });
    expect(createScale([])).toMatchObject({ low: 0, high: 1 });
  });

  it('may be logarithmic', () => {
    const scale = createScale([1, 1000], { isLog: true });
    expect(scale.place(1)).toBe(0);
    expect(scale.place(10)).toBeCloseTo(1 / 3, 12);
    expect(scale.ticks).toEqual([1, 3, 10, 30, 100, 300, 1000]);
    expect(createScale([1, 20], { isLog: true }).ticks).toEqual([1, 2, 5, 10, 20]);
    expect(createScale([1, 1e6], { isLog: true }).ticks).toEqual([1, 10, 100, 1000, 10_000, 100_000, 1_000_000]);
  });
});

describe('a curve', () => {
  const points = Array.from({ length: 100 }, (_, x) => ({ x, y: 2 * x }));

  it('is logarithmic where a few values dwarf the others, all above zero', () => {
    expect(needsLog([1, 1, 1, 1, 100])).toBe(true);
    expect(needsLog([1, 2, 3, 4])).toBe(false);
    expect(needsLog([0, 1, 1, 1, 100])).toBe(false);
    expect(needsLog([])).toBe(false);
  });

  it('of many points becomes means of equal shares', () => {
    expect(thin(points, 100)).toEqual(points);
    expect(thin(points, 4)).toEqual([12, 37, 62, 87].map((x) => ({ x: x + 0, y: 2 * x })));
    expect(thin(points, 3)).toHaveLength(3);
  });

  it('is smoothed without a pull to its first value', () => {
    const level = points.map(({ x }) => ({ x, y: 7 }));
    for (const { y } of smooth(level, 10)) expect(y).toBeCloseTo(7, 12);
    const [first, second] = smooth(
      [
        { x: 0, y: 0 },
        { x: 1, y: 1 },
      ],
      3,
    );
    expect(first?.y).toBe(0);
    expect(second?.y).toBeCloseTo(1 / 1.5, 12);
  });
});
