// SPDX-License-Identifier: Apache-2.0
/** DoRA's norm against the norm of the merged matrix, row by row in float64, on every backend. */
import type { Tensor2D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { valueAndGradients } from '../../src/autograd/index.ts';
import { doraNorm, sumOfSquares } from '../../src/ops/dora_norm.ts';
import { forEachBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { expectNoLeak } from '../helpers/memory.ts';
import { operandSource, toTensor } from '../helpers/random_tensors.ts';
import { product } from '../reference/matrix.ts';

const SCALING = 1.7;

function operands(out: number, inFeatures: number, r: number, transposed: boolean) {
  const source = operandSource(out);
  return {
    W: source.normal(transposed ? [inFeatures, out] : [out, inFeatures]),
    loraA: source.normal([r, inFeatures], 0.3),
    loraB: source.normal([out, r], 0.3),
  };
}

/** From the merged matrix itself. */
function reference(out: number, inFeatures: number, r: number, transposed: boolean): Float64Array {
  const { W, loraA, loraB } = operands(out, inFeatures, r, transposed);
  const update = product(loraB.values, loraA.values, [out, r, inFeatures]);
  return Float64Array.from({ length: out }, (_, o) => {
    let sum = 0;
    for (let i = 0; i < inFeatures; i++) {
      const weight = W.values[transposed ? i * out + o : o * inFeatures + i] as number;
      sum += (weight + SCALING * (update[o * inFeatures + i] as number)) ** 2;
    }
    return Math.sqrt(sum);
  });
}

forEachBackend(() => {
  it.each([
    [1, 1, 1, false],
    [7, 5, 2, false],
    [96, 33, 8, false],
    [34, 64, 16, false],
    [17, 97, 4, true],
    [48, 3, 5, true],
  ])('out %d, in %d, r %d, transposed %s', (out, inFeatures, r, transposed) => {
    const tensors = Object.entries(operands(out, inFeatures, r, transposed)).map(([name, operand]) => [
      name,
      toTensor(operand),
    ]);
    const { W, loraA, loraB } = Object.fromEntries(tensors) as Record<'W' | 'loraA' | 'loraB', Tensor2D>;
    const squares = sumOfSquares(W, transposed);
    const values = expectNoLeak(() => {
      const norm = doraNorm({ W, loraA, loraB, squares }, SCALING, transposed);
      const read = norm.dataSync();
      norm.dispose();
      return read;
    });
    expectClose(values, reference(out, inFeatures, r, transposed), { rtol: 1e-6 });
    const { gradients } = valueAndGradients(
      () => doraNorm({ W, loraA, loraB, squares }, SCALING, transposed),
      [loraA, loraB],
    );
    expect(gradients, 'no gradient flows through the norm').toEqual([null, null]);
    tf.dispose([W, loraA, loraB, squares]);
  });
});
