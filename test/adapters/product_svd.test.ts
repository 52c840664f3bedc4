// SPDX-License-Identifier: Apache-2.0
import { Matrix, SingularValueDecomposition } from 'ml-matrix';
import { expect, test } from 'vitest';
import { productSvd } from '../../adapters/product_svd.ts';
import { createRandom } from '../../src/random.ts';
import { expectClose } from '../helpers/compare.ts';

function random(rows: number, columns: number, seed: number): Matrix {
  const { normal } = createRandom({ seed });
  return Matrix.from1DArray(rows, columns, Float64Array.from({ length: rows * columns }, normal));
}

test.each([
  [12, 9, 4, 2],
  [12, 9, 4, 4],
  [3, 9, 5, 2],
  [12, 2, 5, 2],
])('[%i, %i] of rank %i: the nearest of rank %i is that of the whole product', (out, inputs, r, rank) => {
  const [B, A] = [random(out, r, 1), random(r, inputs, 2)];
  const { US, Vt } = productSvd(B, A, rank);
  const product = B.mmul(A);
  const whole = new SingularValueDecomposition(product, { autoTranspose: true });
  const left = whole.leftSingularVectors.subMatrix(0, out - 1, 0, rank - 1).mulRowVector(whole.diagonal.slice(0, rank));
  const best = left.mmul(whole.rightSingularVectors.subMatrix(0, inputs - 1, 0, rank - 1).transpose());
  expectClose(US.mmul(Vt).to1DArray(), best.to1DArray(), { rtol: 1e-12 });
  expectClose(Vt.mmul(Vt.transpose()).to1DArray(), Matrix.eye(rank).to1DArray(), { rtol: 0, atol: 1e-12 });
});

test('a rank above the product’s is filled with zeros', () => {
  const [B, A] = [random(6, 2, 1), random(2, 5, 2)];
  const { US, Vt } = productSvd(B, A, 4);
  expect([US.rows, US.columns, Vt.rows, Vt.columns]).toEqual([6, 4, 4, 5]);
  expectClose(US.mmul(Vt).to1DArray(), B.mmul(A).to1DArray(), { rtol: 1e-12 });
  expect(
    Vt.subMatrix(2, 3, 0, 4)
      .to1DArray()
      .every((value) => value === 0),
  ).toBe(true);
});
