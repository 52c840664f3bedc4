// SPDX-License-Identifier: Apache-2.0
/** Comparison of computed numbers with a reference. */

export interface Tolerance {
  /** Relative to the largest finite |expected|. Default 1e-5. */
  rtol?: number;
  /** Absolute, added to the relative part. Default 0. */
  atol?: number;
  /** Name of what is compared, for the message. */
  name?: string;
}

/**
 * Fails unless every element lies within atol + rtol * max|expected| of the expected one. A value that is not finite fails unless the
 * expected one is the same.
 * @returns the share of the tolerance that was used, 0 to 1
 */
export function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: Tolerance = {}): number {
  const { rtol = 1e-5, atol = 0, name = 'values' } = tolerance;
  if (actual.length !== expected.length)
    throw new Error(`${name}: ${actual.length} elements, expected ${expected.length}`);
  let largest = 0;
  for (let i = 0; i < expected.length; i++) {
    const magnitude = Math.abs(expected[i] as number);
    if (Number.isFinite(magnitude)) largest = Math.max(largest, magnitude);
  }
  const limit = atol + rtol * largest;
  const worst = { index: -1, used: 0 };
  for (let i = 0; i < expected.length; i++) {
    const used = usedShare(actual[i] as number, expected[i] as number, limit);
    if (used > worst.used) Object.assign(worst, { index: i, used });
  }
  if (worst.used > 1) {
    const { index, used } = worst;
    throw new Error(
      `${name}: worst at index ${index} of ${expected.length}: got ${actual[index]}, expected ${expected[index]}; ` +
        `${used.toPrecision(3)} times the tolerance ${limit.toExponential(2)} ` +
        `(rtol ${rtol} of the largest magnitude ${largest.toPrecision(4)}, atol ${atol})`,
    );
  }
  return worst.used;
}

function usedShare(actual: number, expected: number, limit: number): number {
  if (Object.is(actual, expected)) return 0;
  const difference = Math.abs(actual - expected);
  if (!Number.isFinite(difference)) return Number.POSITIVE_INFINITY;
  return difference === 0 ? 0 : difference / limit;
}
