// SPDX-License-Identifier: Apache-2.0
/** The head and its summed cross-entropy, label smoothing and z-loss, with gradients in float64 (native/include/linear_cross_entropy.h). */
import { product } from './matrix.ts';

export interface LinearCrossEntropyProblem {
  rows: number;
  dModel: number;
  vocabSize: number;
  hidden: ArrayLike<number>;
  W: ArrayLike<number>;
  labels: ArrayLike<number>;
  labelSmoothing?: number;
  zLoss?: number;
}

function logitsOf(p: LinearCrossEntropyProblem): Float64Array {
  return product(p.hidden, p.W, [p.rows, p.dModel, p.vocabSize], { b: true });
}

function logSumExp(row: Float64Array): number {
  const highest = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  return highest + Math.log(row.reduce((sum, value) => sum + Math.exp(value - highest), 0));
}

export function linearCrossEntropy(p: LinearCrossEntropyProblem): { lossSum: number; count: number } {
  const logits = logitsOf(p);
  const { labelSmoothing = 0, zLoss = 0 } = p;
  let [lossSum, count] = [0, 0];
  for (let i = 0; i < p.rows; i++) {
    const label = p.labels[i] as number;
    if (label < 0) continue;
    const row = logits.subarray(i * p.vocabSize, (i + 1) * p.vocabSize);
    const normalizer = logSumExp(row);
    const mean = row.reduce((sum, value) => sum + value, 0) / p.vocabSize;
    lossSum +=
      normalizer - (1 - labelSmoothing) * (row[label] as number) - labelSmoothing * mean + zLoss * normalizer ** 2;
    count += 1;
  }
  return { lossSum, count };
}

/** Gradients of dlossSum * lossSum. */
export function linearCrossEntropyGradients(
  p: LinearCrossEntropyProblem,
  dlossSum: number,
): { hidden: Float64Array; W: Float64Array } {
  const dlogits = logitsOf(p);
  const { labelSmoothing = 0, zLoss = 0 } = p;
  for (let i = 0; i < p.rows; i++) {
    const label = p.labels[i] as number;
    const row = dlogits.subarray(i * p.vocabSize, (i + 1) * p.vocabSize);
    const normalizer = logSumExp(row);
    for (let j = 0; j < p.vocabSize; j++) {
      const target = (j === label ? 1 - labelSmoothing : 0) + labelSmoothing / p.vocabSize;
      const probability = Math.exp((row[j] as number) - normalizer) * (1 + 2 * zLoss * normalizer);
      row[j] = label < 0 ? 0 : dlossSum * (probability - target);
    }
  }
  return {
    hidden: product(dlogits, p.W, [p.rows, p.vocabSize, p.dModel]),
    W: product(dlogits, p.hidden, [p.vocabSize, p.rows, p.dModel], { a: true }),
  };
}
