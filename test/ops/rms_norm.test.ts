// SPDX-License-Identifier: Apache-2.0
/** rms_norm, forward and every gradient, against the float64 reference on every backend. */
import type { Tensor, Tensor1D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import { rmsNorm } from '../../src/ops/rms_norm.ts';
import { splitChannels } from '../../src/ops/split_channels.ts';
import { forEachBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { runWithGradients } from '../helpers/op_run.ts';
import type { Operand } from '../helpers/random_tensors.ts';
import { operandSource, toTensor } from '../helpers/random_tensors.ts';
import type { RmsNormProblem } from '../reference/rms_norm.ts';
import { rmsNorm as reference, rmsNormGradients } from '../reference/rms_norm.ts';

type Operands = Record<string, Operand>;
type Given = { residual?: boolean; weight?: boolean };

function operandsFor(shape: number[], given: Given, deviation = 1): Operands {
  const source = operandSource(shape.reduce((a, b) => 31 * a + b, 1));
  return {
    x: source.normal(shape, deviation),
    ...(given.residual && { residual: source.normal(shape, deviation) }),
    ...(given.weight && { weight: source.normal([shape[shape.length - 1] as number]) }),
  };
}

function problemOf(operands: Operands, eps: number): RmsNormProblem {
  const { x, residual, weight } = operands as { x: Operand } & Operands;
  const dModel = x.shape[x.shape.length - 1] as number;
  return {
    rows: x.values.length / dModel,
    dModel,
    x: x.values,
    ...(residual && { residual: residual.values }),
    ...(weight && { weight: weight.values }),
    eps,
  };
}

function norm({ x, residual, weight }: Record<string, Tensor>, eps?: number): Tensor[] {
  const { y, residualOut } = rmsNorm({ x: x as Tensor, residual, weight: weight as Tensor1D }, eps);
  return [y, residualOut];
}

/** Compares both outputs and the gradients through both. */
function expectNorm(operands: Operands, eps?: number): void {
  const shape = (operands.x as Operand).shape;
  const source = operandSource(77);
  const [dy, dresidualOut] = [source.normal(shape), source.normal(shape)];
  const problem = problemOf(operands, eps ?? 1e-5);
  const wanted = Object.keys(operands);
  const { outputs, gradients } = runWithGradients(operands, wanted, (tensors) => norm(tensors, eps), [
    dy,
    dresidualOut,
  ]);
  const expected = reference(problem);
  expectClose(outputs[0] as Float32Array, expected.y, { name: 'y' });
  expectClose(outputs[1] as Float32Array, expected.residualOut, { name: 'residualOut' });
  const { x, weight } = rmsNormGradients(problem, dy.values, dresidualOut.values);
  for (const name of wanted) {
    expectClose(gradients[name] as Float32Array, name === 'weight' ? weight : x, { name: `gradient of ${name}` });
  }
}

forEachBackend(() => {
  describe.each([
    ['everything', { residual: true, weight: true }],
    ['no residual', { weight: true }],
    ['no weight', { residual: true }],
    ['neither', {}],
  ])('%s', (_name, given) => {
    it.each([[[1, 1]], [[1, 5]], [[3, 17]], [[5, 48]], [[2, 33, 80]], [[7, 769]], [[129, 16]], [[2048, 24]]])(
      'shape %j',
      (shape) => {
        expectNorm(operandsFor(shape, given));
      },
    );
  });

  it('an eps that dominates', () => expectNorm(operandsFor([3, 17], { residual: true, weight: true }, 1e-4), 1e-2));

  it('large values', () => expectNorm(operandsFor([3, 17], { weight: true }, 1e6)));

  it('a row of zeros', () => {
    const operands = operandsFor([2, 17], { weight: true });
    (operands.x as Operand).values.fill(0, 17);
    expectNorm(operands);
  });

  it.each([0, 1])('a gradient through output %d alone', (which) => {
    const operands = operandsFor([3, 17], { residual: true, weight: true });
    const upstream = operandSource(5).normal([3, 17]);
    const wanted = which === 0 ? ['x', 'residual', 'weight'] : ['x', 'residual'];
    const { gradients } = runWithGradients(operands, wanted, (tensors) => [norm(tensors)[which] as Tensor], [upstream]);
    const zeros = new Float32Array(3 * 17);
    const { x, weight } = rmsNormGradients(
      problemOf(operands, 1e-5),
      which === 0 ? upstream.values : zeros,
      which === 0 ? zeros : upstream.values,
    );
    for (const name of wanted) expectClose(gradients[name] as Float32Array, name === 'weight' ? weight : x, { name });
  });

  it('takes columns of a wider matrix', () => {
    const wide = operandSource(8).normal([6, 40]);
    const right = Float32Array.from(
      { length: 6 * 17 },
      (_, i) => wide.values[Math.floor(i / 17) * 40 + 23 + (i % 17)] as number,
    );
    const dy = operandSource(9).normal([6, 17]);
    const { outputs, gradients } = runWithGradients(
      { wide },
      ['wide'],
      (tensors) => [rmsNorm({ x: splitChannels(tensors.wide as Tensor, [23, 17])[1] as Tensor }).y],
      [dy],
    );
    const problem = { rows: 6, dModel: 17, x: right, eps: 1e-5 };
    expectClose(outputs[0] as Float32Array, reference(problem).y);
    const dx = rmsNormGradients(problem, dy.values).x;
    const expected = Float64Array.from({ length: 240 }, (_, i) =>
      i % 40 < 23 ? 0 : (dx[Math.floor(i / 40) * 17 + (i % 40) - 23] as number),
    );
    expectClose(gradients.wide as Float32Array, expected);
  });

  it('keeps a value that is not finite in its row', () => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const operands = operandsFor([3, 17], { weight: true });
      (operands.x as Operand).values[20] = bad;
      const y = tf.tidy(() => (norm({ x: toTensor(operands.x as Operand) })[0] as Tensor).dataSync());
      const finiteRows = [0, 1, 2].map((row) =>
        (y.slice(row * 17, (row + 1) * 17) as Float32Array).every(Number.isFinite),
      );
      expect(finiteRows).toEqual([true, false, true]);
    }
  });

  it.each([
    ['weight', [16], 'rmsNorm: weight must have shape [17], got [16]'],
    ['residual', [17], 'rmsNorm: residual must have shape [3, 17], got [17]'],
  ])('refuses %s of shape %j', (name, shape, message) => {
    const operands = {
      ...operandsFor([3, 17], { residual: true, weight: true }),
      [name]: operandSource(1).normal(shape),
    };
    expect(() => runWithGradients(operands, [], (tensors) => norm(tensors), [])).toThrow(message);
  });

  it('refuses int32', () => {
    const operands = { x: operandSource(1).integers([3, 17], 9) };
    expect(() => runWithGradients(operands, [], (tensors) => norm(tensors), [])).toThrow(
      'rmsNorm: x must be float32, got int32',
    );
  });
});
