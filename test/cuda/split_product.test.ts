// SPDX-License-Identifier: Apache-2.0
/** Products large enough that `highest` takes them as three of float16 parts, on rows whose float64 reference is quick. */
import type { Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { linearCrossEntropy } from '../../src/ops/linear_cross_entropy.ts';
import { loraLinear } from '../../src/ops/lora_linear.ts';
import { onBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { runWithGradients } from '../helpers/op_run.ts';
import { type Operand, operandSource } from '../helpers/random_tensors.ts';
import { linearCrossEntropyGradients, linearCrossEntropy as referenceLoss } from '../reference/linear_cross_entropy.ts';
import { loraLinearGradients, loraLinear as referenceLinear } from '../reference/lora_linear.ts';

const RTOL = 2e-6;

/** A matrix of normal values, drawn once and repeated after a prime number of them. */
function normal(seed: number, shape: [number, number], deviation = 1): Operand {
  const drawn = operandSource(seed).normal([65_537], deviation).values;
  return {
    values: Float32Array.from({ length: shape[0] * shape[1] }, (_, i) => drawn[i % drawn.length] as number),
    shape,
  };
}

/** Some rows of a matrix, one after the other. */
function rowsOf(matrix: ArrayLike<number>, columns: number, rows: readonly number[]): Float64Array {
  return Float64Array.from({ length: rows.length * columns }, (_, i) => {
    return matrix[(rows[Math.floor(i / columns)] as number) * columns + (i % columns)] as number;
  });
}

onBackend('cuda', () => {
  const [rows, inFeatures, outFeatures, r] = [2050, 772, 1028, 8];
  const checked = [0, 63, 64, 127, 128, 1111, 2048, 2049];

  function linearOperands(): Record<'x' | 'W' | 'loraA' | 'loraB' | 'dy', Operand> {
    return {
      x: normal(1, [rows, inFeatures]),
      W: normal(2, [outFeatures, inFeatures], 0.1),
      loraA: normal(3, [r, inFeatures], 0.1),
      loraB: normal(4, [outFeatures, r], 0.1),
      dy: normal(5, [rows, outFeatures], 1e-6),
    };
  }

  function runLinear({ dy, ...operands }: ReturnType<typeof linearOperands>) {
    const run = ({ x, W, loraA, loraB }: Record<string, Tensor>) => [
      loraLinear({ x: x as Tensor, W: W as Tensor2D, loraA: loraA as Tensor2D, loraB: loraB as Tensor2D }),
    ];
    const { outputs, gradients } = runWithGradients(operands, ['x'], run, [dy]);
    return { y: outputs[0] as Float32Array, dx: gradients.x as Float32Array };
  }

  it('lora_linear, forward and backward, with rows and columns of very different sizes', () => {
    const operands = linearOperands();
    const { x, W, loraA, loraB, dy } = operands;
    x.values = x.values.map((value, i) => value * 2 ** ((Math.floor(i / inFeatures) % 3) * 40 - 40));
    const { y, dx } = runLinear(operands);
    for (const row of checked) {
      const problem = {
        ...{ rows: 1, inFeatures, outFeatures, r, scaling: 1, dropout: 0, seed: 0, offset: 0 },
        ...{ x: rowsOf(x.values, inFeatures, [row]), W: W.values, loraA: loraA.values, loraB: loraB.values },
      };
      expectClose(rowsOf(y, outFeatures, [row]), referenceLinear(problem), { rtol: RTOL, name: `row ${row} of y` });
      const expected = loraLinearGradients(problem, rowsOf(dy.values, outFeatures, [row]));
      expectClose(rowsOf(dx, inFeatures, [row]), expected.x, { rtol: RTOL, name: `row ${row} of dx` });
    }
  });

  it('an infinity or a NaN leaves no element of its row finite, and every other row as it is', () => {
    const operands = linearOperands();
    const clean = runLinear(operands).y;
    operands.x.values[64 * inFeatures + 5] = Number.POSITIVE_INFINITY;
    operands.x.values[1111 * inFeatures + 700] = Number.NaN;
    const { y } = runLinear(operands);
    for (const row of checked) {
      const values = y.subarray(row * outFeatures, (row + 1) * outFeatures);
      if (row === 64 || row === 1111) expect(values.some(Number.isFinite)).toBe(false);
      else expect(values).toEqual(clean.subarray(row * outFeatures, (row + 1) * outFeatures));
    }
  });

  it('linear_cross_entropy and its gradient', () => {
    const [rows, dModel, vocabSize] = [1100, 516, 4100];
    const labelled = [0, 127, 128, 600, 1099];
    const hidden = normal(6, [rows, dModel]);
    const W = normal(7, [vocabSize, dModel], 0.1);
    const labels = operandSource(8).integers([rows], vocabSize);
    for (let i = 0; i < rows; i++) if (!labelled.includes(i)) labels.values[i] = -100;
    const run = (tensors: Record<string, Tensor>) => [
      linearCrossEntropy({
        hidden: tensors.hidden as Tensor2D,
        W: tensors.W as Tensor2D,
        labels: tensors.labels as Tensor1D,
      }).lossSum,
    ];
    const upstream = { values: Float32Array.of(0.37), shape: [] };
    const { outputs, gradients } = runWithGradients({ hidden, W, labels }, ['hidden'], run, [upstream]);
    const problem = {
      ...{ rows: labelled.length, dModel, vocabSize, W: W.values },
      ...{ hidden: rowsOf(hidden.values, dModel, labelled), labels: rowsOf(labels.values, 1, labelled) },
    };
    expectClose(outputs[0] as Float32Array, [referenceLoss(problem).lossSum], { rtol: RTOL, name: 'lossSum' });
    const dhidden = gradients.hidden as Float32Array;
    const expected = linearCrossEntropyGradients(problem, 0.37).hidden;
    expectClose(rowsOf(dhidden, dModel, labelled), expected, { name: 'gradient of hidden' });
    const others = Array.from({ length: rows }, (_, i) => i).filter((i) => !labelled.includes(i));
    expect(rowsOf(dhidden, dModel, others).every((value) => value === 0)).toBe(true);
  });
});
