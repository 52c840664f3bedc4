// SPDX-License-Identifier: Apache-2.0
/** RMSNorm with the residual addition and its gradients as plain float64 loops (native/include/rms_norm.h). */

export interface RmsNormProblem {
  rows: number;
  dModel: number;
  x: ArrayLike<number>;
  residual?: ArrayLike<number>;
  weight?: ArrayLike<number>;
  eps: number;
}

const weightAt = (p: RmsNormProblem, j: number) => (p.weight ? (p.weight[j] as number) : 1);

function sumAt(p: RmsNormProblem, i: number): number {
  return (p.x[i] as number) + (p.residual ? (p.residual[i] as number) : 0);
}

function inverseRms(p: RmsNormProblem, row: number): number {
  let squares = 0;
  for (let j = 0; j < p.dModel; j++) squares += sumAt(p, row * p.dModel + j) ** 2;
  return 1 / Math.sqrt(squares / p.dModel + p.eps);
}

export function rmsNorm(p: RmsNormProblem): { y: Float64Array; residualOut: Float64Array } {
  const y = new Float64Array(p.rows * p.dModel);
  const residualOut = new Float64Array(p.rows * p.dModel);
  for (let row = 0; row < p.rows; row++) {
    const inverse = inverseRms(p, row);
    for (let j = 0; j < p.dModel; j++) {
      const i = row * p.dModel + j;
      residualOut[i] = sumAt(p, i);
      y[i] = sumAt(p, i) * inverse * weightAt(p, j);
    }
  }
  return { y, residualOut };
}

/** Gradients of sum(dy * y) + sum(dresidualOut * residualOut); `x` is also the residual's. */
export function rmsNormGradients(
  p: RmsNormProblem,
  dy: ArrayLike<number>,
  dresidualOut?: ArrayLike<number>,
): { x: Float64Array; weight: Float64Array } {
  const g = { x: new Float64Array(p.rows * p.dModel), weight: new Float64Array(p.dModel) };
  for (let row = 0; row < p.rows; row++) {
    const inverse = inverseRms(p, row);
    let dot = 0;
    for (let j = 0; j < p.dModel; j++) {
      const i = row * p.dModel + j;
      dot += (dy[i] as number) * weightAt(p, j) * sumAt(p, i);
      g.weight[j] = (g.weight[j] as number) + (dy[i] as number) * sumAt(p, i) * inverse;
    }
    for (let j = 0; j < p.dModel; j++) {
      const i = row * p.dModel + j;
      const through = (dy[i] as number) * weightAt(p, j) * inverse - (sumAt(p, i) * inverse ** 3 * dot) / p.dModel;
      g.x[i] = through + (dresidualOut ? (dresidualOut[i] as number) : 0);
    }
  }
  return g;
}
