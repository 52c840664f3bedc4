// SPDX-License-Identifier: Apache-2.0
/** tfjs-core's standard kernels on our devices against its pure JavaScript backend: values, shapes and dtypes. */
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import { selectBackend } from '../../src/backends/select.ts';
import { forEachDevice } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { expectNoLeak } from '../helpers/memory.ts';
import { operandSource, toTensor } from '../helpers/random_tensors.ts';

type Compute = () => Tensor | Tensor[];
interface Result {
  shape: number[];
  dtype: string;
  values: number[];
}

const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
/** Values where functions have edges. */
const EDGES = [
  0,
  -0,
  1,
  -1,
  0.5,
  -0.5,
  1.5,
  2.5,
  -2.5,
  1e-8,
  -1e-8,
  20,
  -20,
  88,
  -88,
  100,
  -100,
  1e30,
  -1e30,
  inf,
  -inf,
  nan,
];
const floats = (...shape: number[]) => toTensor(operandSource(shape.length + 1).normal(shape, 2));
const integers = (...shape: number[]) =>
  tf.sub(toTensor(operandSource(shape.length + 1).integers(shape, 7)), tf.scalar(3, 'int32'));
const bools = (...shape: number[]) => tf.cast(toTensor(operandSource(shape.length + 2).integers(shape, 2)), 'bool');
const edges = () => tf.tensor1d(EDGES);

function read(compute: Compute): Result[] {
  const results: Result[] = [];
  tf.tidy(() => {
    for (const tensor of [compute()].flat())
      results.push({ shape: tensor.shape, dtype: tensor.dtype, values: Array.from(tensor.dataSync()) });
  });
  return results;
}

/** @param rtol 0 for kernels that move or compare */
async function expectAsOnCpu(device: string, compute: Compute, rtol: number, atol = 0): Promise<void> {
  await selectBackend('cpu');
  const expected = read(compute);
  await selectBackend(device as 'native');
  const actual = expectNoLeak(() => read(compute));
  expect(actual.map(({ shape, dtype }) => ({ shape, dtype }))).toEqual(
    expected.map(({ shape, dtype }) => ({ shape, dtype })),
  );
  for (const [i, result] of actual.entries())
    expectClose(result.values, expected[i]?.values as number[], { rtol, atol, name: `output ${i}` });
}

/** Compares one by one, each relative to itself: for tables of edges, whose magnitudes differ by tens of decades. */
async function expectEachAsOnCpu(device: string, compute: () => Tensor, rtol: number): Promise<void> {
  await selectBackend('cpu');
  const [expected] = read(compute);
  await selectBackend(device as 'native');
  const [actual] = expectNoLeak(() => read(compute));
  expect(actual?.dtype).toBe(expected?.dtype);
  for (const [i, value] of (expected as Result).values.entries()) {
    expectClose([(actual as Result).values[i] as number], [value], { rtol, atol: 1e-37, name: `at edge ${EDGES[i]}` });
  }
}

const BROADCASTS: [number[], number[]][] = [
  [[3], [3]],
  [[], [2, 3]],
  [[2, 3], []],
  [[1], [2, 3]],
  [[2, 3], [3]],
  [[4, 1], [3]],
  [
    [2, 1, 4],
    [3, 1],
  ],
  [
    [5, 1, 3, 1],
    [4, 1, 2],
  ],
  [
    [2, 1, 2, 1, 2, 3],
    [3, 1, 2, 1, 1],
  ],
  [
    [33, 65],
    [1, 65],
  ],
];

forEachDevice((device) => {
  describe('elementwise kernels of one operand', () => {
    const unary: [string, (x: Tensor) => Tensor, number][] = [
      ['neg', tf.neg, 0],
      ['abs', tf.abs, 0],
      ['exp', tf.exp, 3e-6],
      ['expm1', tf.expm1, 3e-6],
      ['log', tf.log, 3e-6],
      ['log1p', tf.log1p, 3e-6],
      ['sqrt', tf.sqrt, 1e-6],
      ['rsqrt', tf.rsqrt, 1e-6],
      ['square', tf.square, 1e-6],
      ['reciprocal', tf.reciprocal, 1e-6],
      ['sigmoid', tf.sigmoid, 3e-6],
      ['softplus', tf.softplus, 3e-6],
      ['tanh', tf.tanh, 3e-6],
      ['relu', tf.relu, 0],
      ['sign', tf.sign, 0],
      ['step', tf.step, 0],
      ['floor', tf.floor, 0],
      ['ceil', tf.ceil, 0],
      ['round', tf.round, 0],
      ['isNaN', tf.isNaN, 0],
      ['isFinite', tf.isFinite, 0],
      ['isInf', tf.isInf, 0],
    ];
    for (const [name, op, rtol] of unary) {
      it(`${name} at edges`, () => expectEachAsOnCpu(device, () => op(edges()), rtol));
      it(`${name} of many`, () => expectAsOnCpu(device, () => op(floats(3, 347)), Math.max(rtol, 1e-7)));
    }
    it('erf', () => expectAsOnCpu(device, () => tf.erf(floats(3, 347)), 1e-6));
    it('sin and cos', () => expectAsOnCpu(device, () => [tf.sin(floats(1000)), tf.cos(floats(1000))], 1e-6));
    it.each([
      ['neg', tf.neg],
      ['abs', tf.abs],
      ['square', tf.square],
      ['relu', tf.relu],
      ['sign', tf.sign],
    ] as const)('%s of int32', (_name, op) => expectAsOnCpu(device, () => op(integers(5, 7)), 0));
    it('exp of int32 is float32', () => expectAsOnCpu(device, () => tf.exp(integers(5, 7)), 1e-6));
    it('logicalNot', () => expectAsOnCpu(device, () => tf.logicalNot(bools(5, 7) as Tensor), 0));
  });

  describe('elementwise kernels of two operands', () => {
    const arithmetic: [string, (a: Tensor, b: Tensor) => Tensor][] = [
      ['add', tf.add],
      ['sub', tf.sub],
      ['mul', tf.mul],
      ['div', tf.div],
      ['maximum', tf.maximum],
      ['minimum', tf.minimum],
      ['squaredDifference', tf.squaredDifference],
    ];
    const comparisons: [string, (a: Tensor, b: Tensor) => Tensor][] = [
      ['equal', tf.equal],
      ['notEqual', tf.notEqual],
      ['less', tf.less],
      ['lessEqual', tf.lessEqual],
      ['greater', tf.greater],
      ['greaterEqual', tf.greaterEqual],
    ];
    for (const [name, op] of [...arithmetic, ...comparisons]) {
      it.each(BROADCASTS)(`${name} of %j and %j`, (a, b) =>
        expectAsOnCpu(device, () => op(floats(...a), tf.add(floats(...b), 0.125)), 1e-6),
      );
      it(`${name} of every pair of edges`, () =>
        expectAsOnCpu(device, () => op(tf.reshape(edges(), [-1, 1]), edges()), 1e-6));
    }
    for (const [name, op] of [...arithmetic.filter(([other]) => other !== 'div'), ...comparisons]) {
      it(`${name} of int32`, () => expectAsOnCpu(device, () => op(integers(3, 5), integers(5)), 0));
      it(`${name} of int32 and float32`, () => expectAsOnCpu(device, () => op(integers(3, 5), floats(5)), 1e-6));
    }
    it('pow of positive numbers', () => expectAsOnCpu(device, () => tf.pow(tf.abs(floats(4, 5)), floats(5)), 3e-6));
    it('pow of negative numbers by whole ones', () =>
      expectAsOnCpu(device, () => tf.pow(floats(4, 5), tf.cast(integers(5), 'float32')), 3e-6));
    it('mod', () =>
      expectAsOnCpu(
        device,
        () => {
          const [a, b] = [floats(4, 5), tf.add(tf.abs(floats(5)), 0.5)];
          return [tf.mod(a, b), tf.mod(a, tf.neg(b))];
        },
        1e-6,
      ));
    it('floorDiv of float32 stays float32', () => {
      tf.tidy(() => {
        const y = tf.floorDiv(tf.tensor1d([7, -7, 7.5, 1]), tf.tensor1d([2, 2, -2, 0]));
        expect([y.dtype, Array.from(y.dataSync())]).toEqual(['float32', [3, -4, -4, inf]]);
      });
    });
    it('floorDiv and mod of int32', () =>
      expectAsOnCpu(
        device,
        () => {
          const [a, b] = [integers(4, 5), tf.scalar(2, 'int32')];
          return [tf.floorDiv(a, b), tf.mod(a, b), tf.div(a, b), tf.floorDiv(a, tf.scalar(-2, 'int32'))];
        },
        0,
      ));
    it('logicalAnd and logicalOr', () =>
      expectAsOnCpu(
        device,
        () => {
          const [a, b] = [bools(4, 5) as Tensor, bools(5) as Tensor];
          return [tf.logicalAnd(a, b), tf.logicalOr(a, b)];
        },
        0,
      ));
    it('comparison of bool', () => expectAsOnCpu(device, () => tf.equal(bools(4, 5), bools(5)), 0));

    it('shapes that do not broadcast throw and leak nothing', () => {
      const [a, b] = [tf.ones([2, 3]), tf.ones([4])];
      expectNoLeak(() => expect(() => tf.add(a, b)).toThrow(/could not be broadcast/));
      tf.dispose([a, b]);
    });
  });

  describe('cast, fill, select', () => {
    it.each(['float32', 'int32', 'bool'] as const)('cast of edges to %s', (dtype) =>
      expectAsOnCpu(device, () => tf.cast(tf.tensor1d([0, 1, -1, 0.4, -0.6, 2.9, -2.9, 1000]), dtype), 0),
    );
    it('cast of int32 and bool', () =>
      expectAsOnCpu(
        device,
        () => [
          tf.cast(integers(9), 'float32'),
          tf.cast(integers(9), 'bool'),
          tf.cast(bools(9), 'int32'),
          tf.cast(bools(9), 'float32'),
        ],
        0,
      ));
    it('fill, zerosLike, onesLike', () =>
      expectAsOnCpu(
        device,
        () => [
          tf.fill([2, 3], 1.5),
          tf.fill([4], -7, 'int32'),
          tf.fill([], nan),
          tf.zerosLike(integers(5)),
          tf.onesLike(floats(5)),
          tf.zerosLike(bools(3)),
          tf.fill([0, 2], 1),
        ],
        0,
      ));
    it('where, with broadcasting', () =>
      expectAsOnCpu(
        device,
        () => [
          tf.where(bools(4, 5), floats(4, 5), floats(5)),
          tf.where(bools(5), floats(4, 5), tf.scalar(nan)),
          tf.where(bools(4, 1), integers(4, 5), integers(4, 5)),
        ],
        0,
      ));
  });

  describe('reductions', () => {
    const reductions: [string, (x: Tensor, axis?: number | number[], keepDims?: boolean) => Tensor, number][] = [
      ['sum', tf.sum, 1e-6],
      ['mean', tf.mean, 1e-6],
      ['max', tf.max, 0],
      ['min', tf.min, 0],
      ['prod', tf.prod, 3e-6],
    ];
    const axes: [number[], number | number[] | undefined][] = [
      [[7], undefined],
      [[7], 0],
      [[3, 5], -1],
      [[3, 5], 0],
      [
        [3, 5],
        [0, 1],
      ],
      [[2, 3, 4], 1],
      [
        [2, 3, 4],
        [0, -1],
      ],
      [
        [2, 3, 4],
        [1, 2],
      ],
      [[2, 3, 4], [-3]],
      [
        [2, 1, 3, 4],
        [0, 2],
      ],
      [
        [2, 2, 2, 2, 2],
        [0, 2, 4],
      ],
      [[1, 1], 0],
      [[], undefined],
      [[3, 700], 1],
      [[700, 3], 0],
      [[2, 3], []],
    ];
    for (const [name, op, rtol] of reductions) {
      it.each(axes)(`${name} of %j over %j`, (shape, axis) =>
        expectAsOnCpu(device, () => [op(floats(...shape), axis), op(floats(...shape), axis, true)], rtol),
      );
      it(`${name} of int32`, () => expectAsOnCpu(device, () => [op(integers(3, 5), 1), op(integers(3, 5))], 1e-6));
      it(`${name} of values that are not finite`, () =>
        expectAsOnCpu(
          device,
          () => [
            op(edges()),
            ...[nan, inf, -inf].map((bad) =>
              op(
                tf.tensor2d([
                  [1, bad, 2],
                  [bad, 1, 3],
                  [1, 2, 3],
                ]),
                1,
              ),
            ),
          ],
          1e-6,
        ));
    }
    it.each(axes.filter(([, axis]) => typeof axis === 'number'))('argMax and argMin of %j over %j', (shape, axis) =>
      expectAsOnCpu(
        device,
        () => [
          tf.argMax(floats(...shape), axis as number),
          tf.argMin(floats(...shape), axis as number),
          tf.argMax(integers(...shape), axis as number),
        ],
        0,
      ),
    );
    it('argMax takes the first of equals', () =>
      expectAsOnCpu(device, () => [tf.argMax(tf.tensor1d([1, 3, 3])), tf.argMin(tf.tensor1d([2, 1, 1]))], 0));
    it('any and all', () =>
      expectAsOnCpu(
        device,
        () => [tf.any(bools(3, 5), 1), tf.all(bools(3, 5), 0), tf.any(bools(3, 5)), tf.all(bools(3, 5), -1, true)],
        0,
      ));
    it('sum of bool is int32', () => expectAsOnCpu(device, () => tf.sum(bools(3, 5), 1), 0));
    it('sum of a million', () => expectAsOnCpu(device, () => tf.sum(tf.fill([1000, 1000], 0.1)), 1e-4));
    it.each([
      [false, false],
      [true, false],
      [false, true],
      [true, true],
    ])('cumsum, exclusive %j, reverse %j', (exclusive, reverse) =>
      expectAsOnCpu(
        device,
        () =>
          [0, 1, 2].flatMap((axis) => [
            tf.cumsum(floats(2, 5, 3), axis, exclusive, reverse),
            tf.cumsum(integers(2, 5, 3), axis, exclusive, reverse),
          ]),
        1e-6,
      ),
    );
    it('softmax', () =>
      expectAsOnCpu(
        device,
        () => [tf.softmax(floats(3, 17)), tf.softmax(tf.mul(floats(2, 3, 5), 40)), tf.softmax(floats(7))],
        1e-6,
      ));
    it('logSumExp', () =>
      expectAsOnCpu(device, () => [tf.logSumExp(floats(3, 17), 1), tf.logSumExp(floats(2, 3), [0, 1])], 1e-6));
  });

  describe('matMul', () => {
    it.each([
      [1, 1, 1],
      [3, 5, 7],
      [17, 33, 5],
      [64, 100, 48],
      [1, 300, 1],
      [130, 70, 90],
    ])('%d x %d x %d, every transpose', (m, k, n) =>
      expectAsOnCpu(
        device,
        () => [
          tf.matMul(floats(m, k) as tf.Tensor2D, floats(k, n) as tf.Tensor2D),
          tf.matMul(floats(k, m) as tf.Tensor2D, floats(k, n) as tf.Tensor2D, true, false),
          tf.matMul(floats(m, k) as tf.Tensor2D, floats(n, k) as tf.Tensor2D, false, true),
          tf.matMul(floats(k, m) as tf.Tensor2D, floats(n, k) as tf.Tensor2D, true, true),
        ],
        2e-6,
      ),
    );
    it.each([
      [
        [3, 4, 5],
        [3, 5, 2],
      ],
      [
        [1, 4, 5],
        [3, 5, 2],
      ],
      [
        [3, 4, 5],
        [1, 5, 2],
      ],
      [
        [3, 4, 5],
        [5, 2],
      ],
      [
        [2, 3, 4, 5],
        [2, 3, 5, 2],
      ],
      [
        [2, 3, 4, 5],
        [5, 2],
      ],
    ])('batches %j by %j', (a, b) => expectAsOnCpu(device, () => tf.matMul(floats(...a), floats(...b)), 2e-6));
    it('inner dimensions that differ throw', () => {
      const [a, b] = [tf.ones([2, 3]), tf.ones([4, 2])];
      expectNoLeak(() => expect(() => tf.matMul(a, b)).toThrow(/inner/i));
      tf.dispose([a, b]);
    });
  });

  describe('kernels that move elements', () => {
    const moving: [string, Compute][] = [
      [
        'reshape',
        () => [
          tf.reshape(floats(2, 6), [3, -1]),
          tf.expandDims(floats(2, 3), 1),
          tf.squeeze(floats(2, 1, 3)),
          tf.reshape(integers(4), [2, 2]),
        ],
      ],
      [
        'transpose',
        () => [
          tf.transpose(floats(3, 5)),
          tf.transpose(floats(2, 3, 4), [2, 0, 1]),
          tf.transpose(integers(2, 3, 4, 5), [3, 1, 0, 2]),
          tf.transpose(bools(2, 3)),
          tf.transpose(floats(2, 1, 3, 1, 2, 2), [5, 3, 1, 0, 2, 4]),
        ],
      ],
      [
        'slice',
        () => [
          tf.slice(floats(4, 5), [1, 2], [2, 2]),
          tf.slice(floats(4, 5), [1, 0], [-1, 3]),
          tf.slice(integers(9), 4),
          tf.slice(bools(3, 4), [0, 1], [3, 2]),
          tf.slice(floats(2, 3, 4), [1, 0, 2], [1, 3, 2]),
          tf.slice(floats(4, 5), [2, 1], [0, 3]),
        ],
      ],
      [
        'stridedSlice',
        () => [tf.stridedSlice(floats(6, 5), [1, 4], [6, 0], [2, -1]), tf.stridedSlice(integers(9), [0], [9], [3])],
      ],
      [
        'concat',
        () => [
          tf.concat([floats(2, 3), floats(4, 3)], 0),
          tf.concat([floats(2, 3), floats(2, 1), floats(2, 2)], -1),
          tf.concat([integers(2, 3), integers(2, 3)], 1),
          tf.concat([floats(2, 1, 2), floats(2, 3, 2)], 1),
          tf.concat([bools(2), bools(3)]),
        ],
      ],
      [
        'stack and unstack',
        () => [
          ...[0, 1, 2].map((axis) => tf.stack([floats(2, 3), tf.neg(floats(2, 3))], axis)),
          ...tf.unstack(floats(3, 2, 2), 1),
          ...tf.unstack(integers(3, 2), -1),
        ],
      ],
      [
        'split',
        () => [
          ...tf.split(floats(6, 2), 3),
          ...tf.split(floats(2, 6), [1, 3, 2], 1),
          ...tf.split(integers(2, 6), [1, -1], -1),
        ],
      ],
      [
        'pad',
        () => [
          tf.pad(floats(2, 3), [
            [1, 2],
            [0, 3],
          ]),
          tf.pad(integers(3), [[2, 0]], -1),
          tf.pad(
            floats(2, 2, 2),
            [
              [0, 0],
              [1, 1],
              [0, 2],
            ],
            nan,
          ),
        ],
      ],
      [
        'tile',
        () => [
          tf.tile(floats(2, 3), [2, 3]),
          tf.tile(integers(3), [4]),
          tf.tile(floats(2, 1, 3), [1, 4, 2]),
          tf.tile(floats(2, 3, 1, 2), [2, 1, 3, 2]),
        ],
      ],
      ['broadcastTo', () => [tf.broadcastTo(floats(3, 1), [2, 3, 4]), tf.broadcastTo(tf.scalar(3), [2, 2])]],
      [
        'reverse',
        () => [
          tf.reverse(floats(2, 3, 4), [0, 2]),
          tf.reverse(integers(7)),
          tf.reverse(floats(3, 4), -1),
          tf.reverse(bools(2, 3)),
        ],
      ],
      [
        'gather',
        () => [
          tf.gather(floats(5, 3), tf.tensor1d([4, 0, 0, 2], 'int32')),
          tf.gather(integers(5, 3), tf.tensor2d([0, 2, 1, 1], [2, 2], 'int32'), 1),
          tf.gather(floats(2, 3, 4), tf.tensor1d([3, 0], 'int32'), -1),
          tf.gather(bools(6), tf.tensor1d([5, 0], 'int32')),
        ],
      ],
    ];
    for (const [name, compute] of moving) it(name, () => expectAsOnCpu(device, compute, 0));

    it('stridedSlice that drops an axis', () => {
      tf.tidy(() => {
        const x = tf.tensor2d(
          Array.from({ length: 12 }, (_, i) => i),
          [3, 4],
        );
        const row = tf.stridedSlice(x, [1, 0], [2, 4], [1, 2], 0, 0, 0, 0, 1);
        expect([row.shape, Array.from(row.dataSync())]).toEqual([[2], [4, 6]]);
      });
    });

    it('refuses indices out of range', () => {
      tf.tidy(() => {
        const x = tf.ones([5, 3]);
        expect(() => tf.gather(x, tf.tensor1d([0, 5], 'int32'))).toThrow('index 5 at position 1 lies outside [0, 5)');
        expect(() => tf.gather(x, tf.tensor1d([-1], 'int32'))).toThrow('index -1 at position 0 lies outside [0, 5)');
      });
    });
  });
});
