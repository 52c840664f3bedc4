// SPDX-License-Identifier: Apache-2.0
/** Every gradient definition of tfjs-core's kernels, by finite differences on the pure JavaScript backend. */
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import { valueAndGradients } from '../../src/autograd/index.ts';
import { onBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { numericalGradient } from '../helpers/finite_differences.ts';
import { expectNoLeak } from '../helpers/memory.ts';
import type { Operand } from '../helpers/random_tensors.ts';
import { operandSource, toTensor } from '../helpers/random_tensors.ts';

type Op = (...tensors: Tensor[]) => Tensor | Tensor[];

const dot = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a).reduce((sum, value, i) => sum + value * (b[i] as number), 0);

/**
 * Compares the gradient of each operand, alone and together with the others, with differences of a weighted sum of the outputs. The
 * step is wide because outputs are float32: the five-point stencil is exact for polynomials up to the fourth degree.
 */
function expectGradients(op: Op, operands: Operand[], step = 0.03): void {
  const tensorsOf = (values: ArrayLike<number>[]) =>
    operands.map(({ shape }, i) => toTensor({ values: Float32Array.from(values[i] as ArrayLike<number>), shape }));
  const given = operands.map(({ values }) => values);
  const listed = (tensors: Tensor[]) => [op(...tensors)].flat();
  const shapes: number[][] = [];
  tf.tidy(() => void shapes.push(...listed(tensorsOf(given)).map(({ shape }) => shape)));
  const upstream = shapes.map((shape, i) => operandSource(50 + i).normal(shape));
  const loss = (values: ArrayLike<number>[]): number => {
    const sums = tf.tidy(() =>
      listed(tensorsOf(values)).map((tensor, i) => dot(tensor.dataSync(), upstream[i]?.values as Float32Array)),
    );
    return (sums as unknown as number[]).reduce((a, b) => a + b, 0);
  };
  const numerical = given.map((values, i) =>
    numericalGradient((moved) => loss(given.with(i, moved as unknown as Float32Array)), values, step),
  );
  const analytic = (wanted: number[]) =>
    expectNoLeak(() =>
      tf.tidy(() => {
        const tensors = tensorsOf(given);
        const leaves = wanted.map((i) => tensors[i] as Tensor);
        const { gradients } = valueAndGradients(() => listed(tensors), leaves, { upstream: upstream.map(toTensor) });
        return gradients.map((gradient) => (gradient as Tensor).dataSync());
      }),
    ) as unknown as Float32Array[];
  const all = operands.map((_, i) => i);
  for (const wanted of [all, ...(all.length > 1 ? all.map((i) => [i]) : [])]) {
    for (const [j, gradient] of analytic(wanted).entries()) {
      const i = wanted[j] as number;
      expectClose(gradient, numerical[i] as Float64Array, { rtol: 1e-4, atol: 1e-5, name: `gradient of operand ${i}` });
    }
  }
}

const source = operandSource(1);
const normal = (...shape: number[]) => source.normal(shape);
const positive = (...shape: number[]) => source.uniform(shape, 0.7, 3);
/** Values at least 0.2 away from zero, so that no difference crosses a kink there. */
const nonZero = (...shape: number[]): Operand => {
  const { values } = source.uniform(shape, 0.2, 2);
  return { values: values.map((value, i) => (i % 3 === 0 ? -value : value)) as Float32Array, shape };
};

/** Pairs of shapes that broadcast in every direction. */
const BROADCASTS: [number[], number[]][] = [
  [
    [2, 3],
    [2, 3],
  ],
  [[2, 3], [3]],
  [[3], [2, 3]],
  [
    [2, 1, 4],
    [3, 1],
  ],
  [[2, 3], []],
  [[], [2, 3]],
  [
    [1, 1],
    [2, 3],
  ],
  [[1], [1, 1]],
];

onBackend('cpu', () => {
  describe('elementwise kernels of two operands', () => {
    const binary: [string, Op, (...shape: number[]) => Operand, (...shape: number[]) => Operand][] = [
      ['Add', (a, b) => tf.add(a as Tensor, b as Tensor), normal, normal],
      ['Sub', (a, b) => tf.sub(a as Tensor, b as Tensor), normal, normal],
      ['Multiply', (a, b) => tf.mul(a as Tensor, b as Tensor), normal, normal],
      ['RealDiv', (a, b) => tf.div(a as Tensor, b as Tensor), normal, positive],
      ['Maximum', (a, b) => tf.maximum(a as Tensor, tf.mul(b as Tensor, 20)), positive, nonZero],
      ['Minimum', (a, b) => tf.minimum(a as Tensor, tf.mul(b as Tensor, 20)), positive, nonZero],
    ];
    for (const [name, op, left, right] of binary) {
      it.each(BROADCASTS)(`${name} of %j and %j`, (a, b) => expectGradients(op, [left(...a), right(...b)]));
    }

    it('gives all of a tie to one side', () => {
      tf.tidy(() => {
        const [a, b] = [tf.tensor1d([1, 2]), tf.tensor1d([1, 2])];
        for (const op of [tf.maximum, tf.minimum]) {
          const { gradients } = valueAndGradients(() => op(a, b) as Tensor, [a, b]);
          expect(Array.from(tf.add(gradients[0] as Tensor, gradients[1] as Tensor).dataSync())).toEqual([1, 1]);
        }
      });
    });
  });

  describe('elementwise kernels of one operand', () => {
    const unary: [string, (x: Tensor) => Tensor, Operand][] = [
      ['Neg', tf.neg, normal(2, 3)],
      ['Identity', tf.clone, normal(2, 3)],
      ['Cast', (x) => tf.cast(x, 'float32'), normal(2, 3)],
      ['Exp', tf.exp, normal(2, 3)],
      ['Log', tf.log, positive(2, 3)],
      ['Sqrt', tf.sqrt, positive(2, 3)],
      ['Rsqrt', tf.rsqrt, positive(2, 3)],
      ['Square', tf.square, normal(2, 3)],
      ['Sigmoid', tf.sigmoid, normal(2, 3)],
      ['Tanh', tf.tanh, normal(2, 3)],
      ['Softplus', tf.softplus, normal(2, 3)],
      ['Relu', tf.relu, nonZero(2, 3)],
      ['Abs', tf.abs, nonZero(2, 3)],
    ];
    for (const [name, op, operand] of unary) it(name, () => expectGradients((x) => op(x as Tensor), [operand]));

    it('Softplus far from zero', () => {
      const far: Operand = { values: Float32Array.of(-90, -30, -15, 15, 30, 90), shape: [6] };
      expectGradients((x) => tf.softplus(x as Tensor), [far]);
    });
  });

  it('Select', () => {
    const condition = tf.tensor2d([1, 0, 0, 1, 1, 0], [2, 3], 'bool');
    expectGradients((t, e) => tf.where(condition, t as Tensor, e as Tensor), [normal(2, 3), normal(2, 3)]);
    condition.dispose();
  });

  describe('kernels that move elements', () => {
    const moving: [string, (x: Tensor) => Tensor | Tensor[], number[]][] = [
      ['Reshape', (x) => tf.reshape(x, [3, -1]), [2, 6]],
      ['ExpandDims', (x) => tf.expandDims(x, -1), [2, 3]],
      ['Squeeze', (x) => tf.squeeze(x, [1]), [2, 1, 3]],
      ['Transpose', (x) => tf.transpose(x), [2, 3, 4]],
      ['Transpose by a permutation', (x) => tf.transpose(x, [2, 0, 1]), [2, 3, 4]],
      ['Slice', (x) => tf.slice(x, [1, 0], [2, 2]), [4, 3]],
      ['Slice to the end', (x) => tf.slice(x, [1], [-1]), [4, 3]],
      [
        'PadV2',
        (x) =>
          tf.pad(x, [
            [1, 2],
            [0, 3],
          ]),
        [2, 3],
      ],
      ['SplitV by sizes', (x) => tf.split(x, [1, 3, 2], 1), [2, 6]],
      ['SplitV by sizes, one left open', (x) => tf.split(x, [1, -1, 2], -1), [2, 6]],
      ['SplitV by a number', (x) => tf.split(x, 3, 0), [6, 2]],
      ['SplitV with a part that is not used', (x) => tf.split(x, 3, 1).slice(1, 2), [2, 6]],
      ['SplitV by sizes with parts that are not used', (x) => tf.split(x, [1, 3, -1], 1).slice(1, 2), [2, 6]],
      ['Unpack', (x) => tf.unstack(x, 1), [2, 3, 4]],
      ['Unpack of the last axis', (x) => tf.unstack(x, -1), [2, 3]],
      ['Unpack with parts that are not used', (x) => tf.unstack(x, 0).slice(2), [4, 3]],
      ['Tile', (x) => tf.tile(x, [2, 1, 3]), [2, 3, 2]],
      ['Cumsum', (x) => tf.cumsum(x, 1), [2, 4]],
      ['Cumsum, exclusive', (x) => tf.cumsum(x, 0, true), [3, 2]],
      ['Cumsum, reverse', (x) => tf.cumsum(x, 1, false, true), [2, 4]],
      ['Cumsum, exclusive and reverse', (x) => tf.cumsum(x, 1, true, true), [2, 4, 2]],
    ];
    for (const [name, op, shape] of moving) it(name, () => expectGradients((x) => op(x as Tensor), [normal(...shape)]));

    it.each([0, 1, -1])('Concat on axis %d', (axis) => {
      const shapes = [1, 2, 3].map((size) => [2, 2].with(axis, size));
      expectGradients(
        (...parts) => tf.concat(parts, axis),
        shapes.map((shape) => normal(...shape)),
      );
    });

    it.each([0, 1, 2])('Pack on axis %d', (axis) => {
      expectGradients((...parts) => tf.stack(parts, axis), [normal(2, 3), normal(2, 3), normal(2, 3)]);
    });

    it.each([[[4, 3]], [[5]], [[2, 3, 2]]])('GatherV2 of rows of %j', (shape) => {
      const indices = tf.tensor2d([1, 0, 1, 1], [2, 2], 'int32');
      expectGradients((x) => tf.gather(x as Tensor, indices), [normal(...shape)]);
      indices.dispose();
    });

    it('GatherV2 on another axis says that it has no gradient', () => {
      tf.tidy(() => {
        const x = tf.ones([2, 3]);
        expect(() => valueAndGradients(() => tf.gather(x, [0], 1), [x])).toThrow(
          'the gradient of GatherV2 is defined for axis 0',
        );
      });
    });
  });

  describe('reductions', () => {
    const reductions: [string, (x: Tensor) => Tensor][] = [
      ['Sum of everything', (x) => tf.sum(x)],
      ['Sum over one axis', (x) => tf.sum(x, 1)],
      ['Sum over two axes', (x) => tf.sum(x, [0, -1])],
      ['Sum with kept axes', (x) => tf.sum(x, [0, 2], true)],
      ['Mean of everything', (x) => tf.mean(x)],
      ['Mean over one axis', (x) => tf.mean(x, -1)],
      ['Mean with kept axes', (x) => tf.mean(x, [0, 1], true)],
    ];
    for (const [name, op] of reductions) it(name, () => expectGradients((x) => op(x as Tensor), [normal(2, 3, 4)]));
  });

  describe('BatchMatMul', () => {
    const flags: [boolean, boolean][] = [
      [false, false],
      [false, true],
      [true, false],
      [true, true],
    ];
    it.each(flags)('transposeA %j, transposeB %j', (transposeA, transposeB) => {
      const a = transposeA ? [4, 2] : [2, 4];
      const b = transposeB ? [3, 4] : [4, 3];
      const op: Op = (x, y) => tf.matMul(x as Tensor, y as Tensor, transposeA, transposeB);
      expectGradients(op, [normal(...a), normal(...b)]);
      expectGradients(op, [normal(2, ...a), normal(2, ...b)]);
      expectGradients(op, [normal(1, ...a), normal(3, ...b)]);
      expectGradients(op, [normal(3, ...a), normal(...b)]);
      expectGradients(op, [normal(...a), normal(2, 2, ...b)]);
    });
  });
});
