// SPDX-License-Identifier: Apache-2.0
/** lora_linear, forward and every gradient, against the float64 reference on every backend. */
import type { Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { valueAndGradients } from '../../src/autograd/index.ts';
import { MATMUL_PRECISIONS, setMatmulPrecision } from '../../src/backends/precision.ts';
import type { LoraLinearOptions } from '../../src/ops/lora_linear.ts';
import { loraLinear } from '../../src/ops/lora_linear.ts';
import { splitChannels } from '../../src/ops/split_channels.ts';
import { forEachBackend, hasOwnKernels } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { expectNoLeak } from '../helpers/memory.ts';
import { runWithGradients } from '../helpers/op_run.ts';
import type { Operand } from '../helpers/random_tensors.ts';
import { operandSource, toTensor } from '../helpers/random_tensors.ts';
import type { LoraLinearGradients, LoraLinearProblem } from '../reference/lora_linear.ts';
import { loraLinearGradients, loraLinear as reference } from '../reference/lora_linear.ts';

type Dimensions = { rows: number; inFeatures: number; outFeatures: number; r: number };
type Operands = Record<string, Operand>;

function operandsFor({ rows, inFeatures, outFeatures, r }: Dimensions, bias = true): Operands {
  const source = operandSource(1000 * inFeatures + outFeatures);
  return {
    x: source.normal([rows, inFeatures]),
    W: source.normal([outFeatures, inFeatures]),
    ...(bias && { bias: source.normal([outFeatures]) }),
    ...(r > 0 && { loraA: source.normal([r, inFeatures]), loraB: source.normal([outFeatures, r]) }),
  };
}

function problemOf(dimensions: Dimensions, operands: Operands, options: LoraLinearOptions = {}): LoraLinearProblem {
  const values = Object.fromEntries(Object.entries(operands).map(([name, operand]) => [name, operand.values]));
  return { ...dimensions, scaling: 1, dropout: 0, seed: 0, offset: 0, ...options, ...values } as LoraLinearProblem;
}

function linear({ x, W, bias, loraA, loraB }: Record<string, Tensor>, options: LoraLinearOptions = {}): Tensor {
  return loraLinear(
    { x: x as Tensor, W: W as Tensor2D, bias: bias as Tensor1D, loraA: loraA as Tensor2D, loraB: loraB as Tensor2D },
    options,
  );
}

function expectLinear(
  dimensions: Dimensions,
  operands: Operands,
  options: LoraLinearOptions = {},
  wanted: string[] = Object.keys(operands),
  rtol?: number,
): void {
  const dy = operandSource(99).normal([dimensions.rows, dimensions.outFeatures]);
  const { outputs, gradients } = runWithGradients(operands, wanted, (tensors) => [linear(tensors, options)], [dy]);
  const problem = problemOf(dimensions, operands, options);
  const tolerance = rtol === undefined ? {} : { rtol };
  expectClose(outputs[0] as Float32Array, reference(problem), { ...tolerance, name: 'y' });
  const expected = loraLinearGradients(problem, dy.values);
  for (const name of wanted) {
    expectClose(gradients[name] as Float32Array, expected[name as keyof LoraLinearGradients], {
      ...tolerance,
      name: `gradient of ${name}`,
    });
  }
}

const SHAPES: Dimensions[] = [
  { rows: 1, inFeatures: 1, outFeatures: 1, r: 1 },
  { rows: 1, inFeatures: 48, outFeatures: 5, r: 8 },
  { rows: 3, inFeatures: 5, outFeatures: 17, r: 2 },
  { rows: 5, inFeatures: 17, outFeatures: 80, r: 4 },
  { rows: 31, inFeatures: 80, outFeatures: 48, r: 16 },
  { rows: 33, inFeatures: 33, outFeatures: 33, r: 3 },
];
const LARGE_SHAPES: Dimensions[] = [
  { rows: 129, inFeatures: 97, outFeatures: 131, r: 8 },
  { rows: 257, inFeatures: 64, outFeatures: 192, r: 8 },
  { rows: 64, inFeatures: 400, outFeatures: 50, r: 64 },
];
/** From 9 rows on, with ranks of one and two eights and sizes that are multiples of nothing. */
const ROWS_OF_A_STEP: Dimensions[] = [
  { rows: 9, inFeatures: 20, outFeatures: 12, r: 3 },
  { rows: 64, inFeatures: 320, outFeatures: 40, r: 8 },
  { rows: 65, inFeatures: 40, outFeatures: 104, r: 8 },
  { rows: 130, inFeatures: 48, outFeatures: 51, r: 12 },
  { rows: 200, inFeatures: 88, outFeatures: 36, r: 16 },
  { rows: 70, inFeatures: 16, outFeatures: 200, r: 0 },
  { rows: 1090, inFeatures: 48, outFeatures: 1004, r: 0 },
];
/** Of an element, relative to the largest: inputs of 24, 11 and 8 bits. */
const RTOL = { highest: 1e-5, high: 2e-3, medium: 2e-2 };
const SMALL: Dimensions = { rows: 6, inFeatures: 19, outFeatures: 21, r: 4 };

forEachBackend((backend) => {
  const shapes = hasOwnKernels(backend) ? [...SHAPES, ...LARGE_SHAPES] : SHAPES;
  for (const dimensions of shapes) {
    const { rows, inFeatures, outFeatures, r } = dimensions;
    const label = `${rows} rows, ${inFeatures} to ${outFeatures}, r ${r}`;
    it(label, () => expectLinear(dimensions, operandsFor(dimensions), { scaling: 1.5 }));
    it(`${label}, no bias`, () => expectLinear(dimensions, operandsFor(dimensions, false), { scaling: 0.25 }));
    it(`${label}, no adapter`, () => expectLinear({ ...dimensions, r: 0 }, operandsFor({ ...dimensions, r: 0 })));
  }

  const ownPrecisions = hasOwnKernels(backend) ? (['highest'] as const) : [];
  describe.each(backend === 'cuda' ? MATMUL_PRECISIONS : ownPrecisions)(
    'rows of a short step in precision %s',
    (precision) => {
      beforeEach(() => setMatmulPrecision(precision));
      afterEach(() => setMatmulPrecision('highest'));
      for (const dimensions of ROWS_OF_A_STEP) {
        const { rows, inFeatures, outFeatures, r } = dimensions;
        it(`${rows} rows, ${inFeatures} to ${outFeatures}, r ${r}`, () => {
          const operands = operandsFor(dimensions);
          const wanted = Object.keys(operands).filter((name) => name !== 'W' && name !== 'bias');
          for (const names of [wanted, r > 0 ? ['loraB'] : []]) {
            expectLinear(dimensions, operands, { scaling: 1.5 }, names, RTOL[precision]);
          }
        });
      }
    },
  );

  it('any number of leading axes', () => {
    const operands = operandsFor(SMALL);
    const dy = operandSource(2).normal([2, 3, SMALL.outFeatures]);
    const x = { ...(operands.x as Operand), shape: [2, 3, SMALL.inFeatures] };
    const { outputs, gradients } = runWithGradients({ ...operands, x }, ['x'], (tensors) => [linear(tensors)], [dy]);
    const problem = problemOf(SMALL, operands);
    expectClose(outputs[0] as Float32Array, reference(problem));
    expectClose(gradients.x as Float32Array, loraLinearGradients(problem, dy.values).x);
  });

  it('each gradient alone', () => {
    const options = { scaling: 2, dropout: 0.3, seed: 4, offset: 7 };
    for (const name of ['x', 'W', 'bias', 'loraA', 'loraB']) expectLinear(SMALL, operandsFor(SMALL), options, [name]);
  });

  describe('dropout', () => {
    it.each([
      [0.1, 0, 0],
      [0.5, 42, 3],
      [0.9, 2 ** 40 + 17, 2 ** 35 + 5],
    ])('p %d, seed %d, offset %d', (dropout, seed, offset) => {
      expectLinear(SMALL, operandsFor(SMALL), { scaling: 2, dropout, seed, offset });
      const larger = { rows: 33, inFeatures: 80, outFeatures: 17, r: 8 };
      expectLinear(larger, operandsFor(larger), { scaling: 2, dropout, seed, offset });
    });

    it('leaves the path of W whole', () => {
      const operands = operandsFor(SMALL);
      operands.loraB?.values.fill(0);
      expectLinear(SMALL, operands, { dropout: 0.9, seed: 1 });
    });
  });

  it('takes columns of a wider matrix, and their gradient lands in it', () => {
    const { rows, inFeatures, outFeatures } = SMALL;
    const operands = operandsFor(SMALL);
    const wide = operandSource(4).normal([rows, 5 + inFeatures]);
    const x = Float32Array.from({ length: rows * inFeatures }, (_, i) => {
      return wide.values[Math.floor(i / inFeatures) * (5 + inFeatures) + 5 + (i % inFeatures)] as number;
    });
    const dy = operandSource(5).normal([rows, outFeatures]);
    const options = { dropout: 0.4, seed: 3 };
    const { outputs, gradients } = runWithGradients(
      { ...operands, wide },
      ['wide', 'loraA', 'W'],
      ({ wide: matrix, ...rest }) => [
        linear({ ...rest, x: splitChannels(matrix as Tensor, [5, inFeatures])[1] as Tensor }, options),
      ],
      [dy],
    );
    const problem = { ...problemOf(SMALL, operands, options), x };
    const expected = loraLinearGradients(problem, dy.values);
    expectClose(outputs[0] as Float32Array, reference(problem));
    expectClose(gradients.loraA as Float32Array, expected.loraA);
    expectClose(gradients.W as Float32Array, expected.W);
    const dwide = Float64Array.from({ length: rows * (5 + inFeatures) }, (_, i) => {
      const [row, column] = [Math.floor(i / (5 + inFeatures)), i % (5 + inFeatures)];
      return column < 5 ? 0 : (expected.x[row * inFeatures + column - 5] as number);
    });
    expectClose(gradients.wide as Float32Array, dwide);
  });

  describe('a frozen W', () => {
    it.each([SMALL, { rows: 70, inFeatures: 80, outFeatures: 131, r: 8 }])('%j', (dimensions) => {
      expectFrozen(dimensions, operandsFor(dimensions), [['x', 'loraA', 'loraB'], ['x']]);
    });

    it('gives new results after it was assigned to', () => {
      const operands = operandsFor(SMALL, false);
      const other = operandSource(55).normal([SMALL.outFeatures, SMALL.inFeatures]);
      const results = expectNoLeak(() =>
        tf.tidy(() => {
          const W = tf.variable(toTensor(operands.W as Operand), false);
          const x = toTensor(operands.x as Operand);
          const before = linear({ x, W }).dataSync();
          W.assign(toTensor(other));
          const after = linear({ x, W }).dataSync();
          W.dispose();
          return [before, after];
        }),
      ) as unknown as Float32Array[];
      const problem = { ...problemOf(SMALL, operands), loraA: undefined, loraB: undefined };
      expectClose(results[0] as Float32Array, reference(problem));
      expectClose(results[1] as Float32Array, reference({ ...problem, W: other.values }));
    });
  });

  it('a trainable variable as W', () => {
    const operands = operandsFor(SMALL, false);
    const dy = operandSource(3).normal([SMALL.rows, SMALL.outFeatures]);
    const dW = expectNoLeak(() =>
      tf.tidy(() => {
        const W = tf.variable(toTensor(operands.W as Operand), true);
        const x = toTensor(operands.x as Operand);
        const { gradients } = valueAndGradients(() => linear({ x, W }), [W], { upstream: [toTensor(dy)] });
        W.dispose();
        return gradients[0]?.dataSync();
      }),
    );
    const problem = { ...problemOf(SMALL, operands), loraA: undefined, loraB: undefined };
    expectClose(dW as unknown as Float32Array, loraLinearGradients(problem, dy.values).W);
  });

  it('keeps a value that is not finite in its row', () => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const operands = operandsFor(SMALL);
      (operands.x as Operand).values[2 * SMALL.inFeatures + 3] = bad;
      const { outputs } = runWithGradients(operands, [], (tensors) => [linear(tensors)], [
        operandSource(1).normal([SMALL.rows, SMALL.outFeatures]),
      ]);
      const y = outputs[0] as Float32Array;
      const finite = Array.from({ length: SMALL.rows }, (_, row) =>
        y.slice(row * SMALL.outFeatures, (row + 1) * SMALL.outFeatures).some(Number.isFinite),
      );
      expect(finite).toEqual([true, true, false, true, true, true]);
    }
  });

  it('shows a W that is not finite, packed or not', () => {
    const operands = operandsFor(SMALL, false);
    (operands.W as Operand).values[7] = Number.NaN;
    for (const trainable of [false, true]) {
      const y = tf.tidy(() => {
        const W = tf.variable(toTensor(operands.W as Operand), trainable);
        const result = linear({ x: toTensor(operands.x as Operand), W }).dataSync();
        W.dispose();
        return result;
      }) as unknown as Float32Array;
      expect(Array.from(y, Number.isNaN)).toEqual(Array.from(y, (_, i) => i % SMALL.outFeatures === 0));
    }
  });

  it.each([
    ['x', [6, 18], 'loraLinear: x must have shape [6, 19], got [6, 18]'],
    ['W', [19], 'loraLinear: W must have shape [out, in], got [19]'],
    ['bias', [19], 'loraLinear: bias must have shape [21], got [19]'],
    ['loraA', [4, 21], 'loraLinear: loraA must have shape [4, 19], got [4, 21]'],
    ['loraB', [21, 5], 'loraLinear: loraB must have shape [21, 4], got [21, 5]'],
  ])('refuses %s of shape %j', (name, shape, message) => {
    const operands = { ...operandsFor(SMALL), [name]: operandSource(1).normal(shape) };
    expect(() => runWithGradients(operands, [], (tensors) => [linear(tensors)], [])).toThrow(message);
  });

  it('refuses half an adapter, and int32', () => {
    const { loraB: _dropped, ...half } = operandsFor(SMALL);
    const run = (operands: Operands) => () => runWithGradients(operands, [], (tensors) => [linear(tensors)], []);
    expect(run(half)).toThrow('loraLinear: loraA and loraB must be given together');
    expect(run({ ...operandsFor(SMALL), x: operandSource(1).integers([6, 19], 4) })).toThrow(
      'loraLinear: x must be float32, got int32',
    );
  });
});

/** Runs twice with W as a frozen variable, so that the second run meets what the first has packed. */
function expectFrozen(dimensions: Dimensions, operands: Operands, wantedSets: string[][]): void {
  const dy = operandSource(99).normal([dimensions.rows, dimensions.outFeatures]);
  const problem = problemOf(dimensions, operands, { scaling: 0.5 });
  const expected = loraLinearGradients(problem, dy.values);
  expectNoLeak(() => {
    const W = tf.tidy(() => tf.variable(toTensor(operands.W as Operand), false));
    for (const wanted of wantedSets) {
      tf.tidy(() => {
        const tensors = Object.fromEntries(
          Object.entries(operands).map(([name, operand]) => [name, name === 'W' ? W : toTensor(operand)]),
        );
        const leaves = wanted.map((name) => tensors[name] as Tensor);
        const run = () => linear(tensors, { scaling: 0.5 });
        const { value, gradients } = valueAndGradients(run, leaves, { upstream: [toTensor(dy)] });
        expectClose(value.dataSync() as Float32Array, reference(problem), { name: 'y' });
        for (const [i, name] of wanted.entries()) {
          expectClose((gradients[i] as Tensor).dataSync() as Float32Array, expected[name as 'x'], { name });
        }
      });
    }
    W.dispose();
  });
}
