// SPDX-License-Identifier: Apache-2.0
/**
 * The largest singular values of a matrix and their vectors, by Golub-Kahan-Lanczos bidiagonalization with full reorthogonalization
 * (Golub and Van Loan, Matrix Computations, section 10.4), in float64: a full decomposition of a projection takes a minute, this a second.
 */
import { Matrix, SingularValueDecomposition } from 'ml-matrix';
import { createRandom, type Random } from '../src/random.ts';

export interface TruncatedSvd {
  /** [rank, rows]: left singular vectors as rows. */
  U: Float64Array[];
  /** [rank], falling. */
  S: Float64Array;
  /** [rank, columns]: right singular vectors as rows. */
  V: Float64Array[];
}

/** Largest residual |W v - s u| of a pair that is taken, as a share of the largest singular value. */
const TOLERANCE = 1e-10;
/** Lanczos steps between two looks at the pairs. */
const STRIDE = 16;

/**
 * @param W [rows, columns], row by row
 * @param rank from 1 to the smaller of rows and columns
 * @returns the same for the same W on every machine, up to rounding: the start vector is fixed
 */
export function truncatedSvd(W: ArrayLike<number>, rows: number, columns: number, rank: number): TruncatedSvd {
  if (rows < columns) {
    const { U, S, V } = truncatedSvd(transpose(W, rows, columns), columns, rows, rank);
    return { U: V, S, V: U };
  }
  const random = createRandom({ seed: 0 });
  const left: Float64Array[] = [];
  const right: Float64Array[] = [freshDirection(columns, [], random)];
  const alphas: number[] = [];
  const betas: number[] = [];
  let scale = 0;
  for (;;) {
    const v = right.at(-1) as Float64Array;
    const u = times(W, v, rows, columns);
    const alpha = orthonormalize(u, left, scale, rows, random);
    left.push(u);
    alphas.push(alpha);
    const next = timesTransposed(W, u, rows, columns);
    scale = Math.max(scale, alpha, norm(next));
    const steps = alphas.length;
    const isWhole = steps === columns;
    const beta = isWhole ? 0 : orthonormalize(next, right, scale, columns, random);
    if (isWhole || (steps >= rank && (steps % STRIDE === 0 || beta === 0))) {
      const small = decompose(alphas, betas);
      if (isWhole || hasConverged(small, beta, rank)) return lift(small, left, right, rank);
    }
    betas.push(beta);
    right.push(next);
  }
}

/** The singular value decomposition of the upper bidiagonal matrix. */
function decompose(alphas: readonly number[], betas: readonly number[]): SingularValueDecomposition {
  const size = alphas.length;
  const B = Matrix.zeros(size, size);
  for (const [i, alpha] of alphas.entries()) B.set(i, i, alpha);
  for (const [i, beta] of betas.entries()) B.set(i, i + 1, beta);
  return new SingularValueDecomposition(B);
}

/** A step past a direction that W does not lead out of (beta 0) proves nothing about what lies outside: it goes on to the end. */
function hasConverged(small: SingularValueDecomposition, beta: number, rank: number): boolean {
  const size = small.diagonal.length;
  if (beta === 0) return false;
  const limit = TOLERANCE * (small.diagonal[0] as number);
  for (let i = 0; i < rank; i++) {
    if (Math.abs(beta * small.leftSingularVectors.get(size - 1, i)) > limit) return false;
  }
  return true;
}

function lift(
  small: SingularValueDecomposition,
  left: readonly Float64Array[],
  right: readonly Float64Array[],
  rank: number,
): TruncatedSvd {
  const combine = (basis: readonly Float64Array[], weights: Matrix, column: number) => {
    const sum = new Float64Array(basis[0]?.length ?? 0);
    for (let k = 0; k < small.diagonal.length; k++) addScaled(sum, basis[k] as Float64Array, weights.get(k, column));
    return sum;
  };
  const pairs = Array.from({ length: rank }, (_, i) => i);
  return {
    U: pairs.map((i) => combine(left, small.leftSingularVectors, i)),
    S: Float64Array.from(small.diagonal.slice(0, rank)),
    V: pairs.map((i) => combine(right, small.rightSingularVectors, i)),
  };
}

/**
 * Takes from x what lies along `basis`, twice, and gives it length 1.
 * @returns its length before; 0, and a fresh direction in x, when nothing but rounding was left
 */
function orthonormalize(
  x: Float64Array,
  basis: readonly Float64Array[],
  scale: number,
  size: number,
  random: Random,
): number {
  project(x, basis);
  const length = norm(x);
  if (length > 1e-13 * scale) {
    scaleBy(x, 1 / length);
    return length;
  }
  x.set(freshDirection(size, basis, random));
  return 0;
}

function freshDirection(size: number, basis: readonly Float64Array[], random: Random): Float64Array {
  const x = Float64Array.from({ length: size }, () => random.normal());
  project(x, basis);
  scaleBy(x, 1 / norm(x));
  return x;
}

function project(x: Float64Array, basis: readonly Float64Array[]): void {
  for (let pass = 0; pass < 2; pass++) {
    for (const direction of basis) addScaled(x, direction, -dot(x, direction));
  }
}

function times(W: ArrayLike<number>, v: Float64Array, rows: number, columns: number): Float64Array {
  const out = new Float64Array(rows);
  for (let i = 0; i < rows; i++) {
    let sum = 0;
    for (let j = 0; j < columns; j++) sum += (W[i * columns + j] as number) * (v[j] as number);
    out[i] = sum;
  }
  return out;
}

function timesTransposed(W: ArrayLike<number>, u: Float64Array, rows: number, columns: number): Float64Array {
  const out = new Float64Array(columns);
  for (let i = 0; i < rows; i++) {
    const factor = u[i] as number;
    for (let j = 0; j < columns; j++) out[j] = (out[j] as number) + factor * (W[i * columns + j] as number);
  }
  return out;
}

function transpose(W: ArrayLike<number>, rows: number, columns: number): Float64Array {
  return Float64Array.from(
    { length: rows * columns },
    (_, i) => W[(i % rows) * columns + Math.floor(i / rows)] as number,
  );
}

function addScaled(x: Float64Array, y: Float64Array, factor: number): void {
  for (let i = 0; i < x.length; i++) x[i] = (x[i] as number) + factor * (y[i] as number);
}

function scaleBy(x: Float64Array, factor: number): void {
  for (let i = 0; i < x.length; i++) x[i] = (x[i] as number) * factor;
}

function dot(x: Float64Array, y: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += (x[i] as number) * (y[i] as number);
  return sum;
}

function norm(x: Float64Array): number {
  return Math.sqrt(dot(x, x));
}
