// SPDX-License-Identifier: Apache-2.0
/** The best approximation of a product of two thin matrices by one of lower rank. */
import { Matrix, QrDecomposition, SingularValueDecomposition } from 'ml-matrix';

/**
 * The singular values and vectors of B A, the largest first, without forming the product: with B = Qb Rb and Aᵀ = Qa Ra they are those of
 * Rb Raᵀ, turned by Qb and Qa. Values beyond the product's rank are zero.
 *
 * @param B [out, r]
 * @param A [r, in]
 * @returns U S [out, rank] and Vᵀ [rank, in], whose product is the nearest matrix of that rank (Eckart and Young 1936)
 */
export function productSvd(B: Matrix, A: Matrix, rank: number): { US: Matrix; Vt: Matrix } {
  const left = orthogonalFactor(B);
  const right = orthogonalFactor(A.transpose());
  const core = left.R.mmul(right.R.transpose());
  const svd = new SingularValueDecomposition(core, { autoTranspose: true });
  const kept = Math.min(rank, svd.diagonal.length);
  const scaled = columns(svd.leftSingularVectors, kept).mulRowVector(svd.diagonal.slice(0, kept));
  const turned = columns(svd.rightSingularVectors, kept);
  const US = Matrix.zeros(B.rows, rank);
  const Vt = Matrix.zeros(rank, A.columns);
  US.setSubMatrix(left.Q.mmul(scaled), 0, 0);
  Vt.setSubMatrix(right.Q.mmul(turned).transpose(), 0, 0);
  return { US, Vt };
}

/** matrix = Q R with orthonormal columns in Q. */
function orthogonalFactor(matrix: Matrix): { Q: Matrix; R: Matrix } {
  if (matrix.rows <= matrix.columns) return { Q: Matrix.eye(matrix.rows), R: matrix };
  const qr = new QrDecomposition(matrix);
  return { Q: qr.orthogonalMatrix, R: qr.upperTriangularMatrix };
}

function columns(matrix: Matrix, count: number): Matrix {
  return matrix.subMatrix(0, matrix.rows - 1, 0, count - 1);
}
