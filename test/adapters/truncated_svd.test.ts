// SPDX-License-Identifier: Apache-2.0
/** The truncated decomposition against a full one. */
import { Matrix, SingularValueDecomposition } from 'ml-matrix';
import { describe, expect, it } from 'vitest';
import { truncatedSvd } from '../../adapters/truncated_svd.ts';
import { expectClose } from '../helpers/compare.ts';
import { operandSource } from '../helpers/random_tensors.ts';
import { product } from '../reference/matrix.ts';

function full(W: ArrayLike<number>, rows: number, columns: number) {
  const matrix = Matrix.from1DArray(rows, columns, Array.from(W));
  return new SingularValueDecomposition(matrix, { autoTranspose: true });
}

/** sum over the first pairs of s u v^T. */
function lowRank(
  u: (i: number, k: number) => number,
  s: ArrayLike<number>,
  v: (j: number, k: number) => number,
  [rows, columns, rank]: [number, number, number],
): number[] {
  return Array.from({ length: rows * columns }, (_, e) => {
    let sum = 0;
    for (let k = 0; k < rank; k++) sum += (s[k] as number) * u(Math.floor(e / columns), k) * v(e % columns, k);
    return sum;
  });
}

function expectTruncated(W: ArrayLike<number>, rows: number, columns: number, rank: number): void {
  const { U, S, V } = truncatedSvd(W, rows, columns, rank);
  const reference = full(W, rows, columns);
  const size: [number, number, number] = [rows, columns, rank];
  expectClose(S, reference.diagonal.slice(0, rank), { rtol: 1e-9, name: 'singular values' });
  const wanted = lowRank(
    (i, k) => reference.leftSingularVectors.get(i, k),
    reference.diagonal,
    (j, k) => reference.rightSingularVectors.get(j, k),
    size,
  );
  const found = lowRank(
    (i, k) => U[k]?.[i] as number,
    S,
    (j, k) => V[k]?.[j] as number,
    size,
  );
  expectClose(found, wanted, { rtol: 1e-7, name: 'principal part' });
  for (const vectors of [U, V]) {
    for (const [i, a] of vectors.entries()) {
      for (const [j, b] of vectors.entries()) {
        const dot = a.reduce((sum, value, k) => sum + value * (b[k] as number), 0);
        expect(Math.abs(dot - (i === j ? 1 : 0))).toBeLessThan(1e-10);
      }
    }
  }
}

describe('a random matrix', () => {
  it.each([
    [1, 1, 1],
    [5, 5, 5],
    [40, 9, 4],
    [9, 40, 9],
    [128, 96, 8],
    [34, 200, 16],
  ])('[%d, %d], rank %d', (rows, columns, rank) => {
    expectTruncated(operandSource(rows).normal([rows, columns]).values, rows, columns, rank);
  });
});

it('a matrix of a lower rank than is asked for', () => {
  const source = operandSource(3);
  const W = product(source.normal([30, 3]).values, source.normal([3, 20]).values, [30, 3, 20]);
  const { U, S, V } = truncatedSvd(W, 30, 20, 5);
  expectClose(S.slice(3), [0, 0], { atol: 1e-9 * (S[0] as number) });
  const found = lowRank(
    (i, k) => U[k]?.[i] as number,
    S,
    (j, k) => V[k]?.[j] as number,
    [30, 20, 5],
  );
  expectClose(found, W, { rtol: 1e-9 });
});

it('repeated singular values, and a zero matrix', () => {
  const identity = Array.from({ length: 12 * 8 }, (_, e) => (Math.floor(e / 8) === e % 8 ? 2 : 0));
  expectClose(truncatedSvd(identity, 12, 8, 8).S, Array(8).fill(2), { rtol: 1e-10 });
  expect([...truncatedSvd(new Float32Array(60), 6, 10, 2).S].every((value) => Math.abs(value) < 1e-12)).toBe(true);
});

it('is the same each time, to the bit', () => {
  const { values } = operandSource(1).normal([50, 30]);
  expect(truncatedSvd(values, 50, 30, 4)).toEqual(truncatedSvd(values, 50, 30, 4));
});
