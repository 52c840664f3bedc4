// SPDX-License-Identifier: Apache-2.0
/** Matrix products in float64. */

/** op(a) op(b) of an [m, k] and a [k, n] matrix; a transposed operand is given as [k, m] or [n, k]. */
export function product(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  [m, k, n]: readonly [number, number, number],
  transpose: { a?: boolean; b?: boolean } = {},
): Float64Array {
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let l = 0; l < k; l++) {
        sum += (a[transpose.a ? l * m + i : i * k + l] as number) * (b[transpose.b ? j * k + l : l * n + j] as number);
      }
      out[i * n + j] = sum;
    }
  }
  return out;
}
