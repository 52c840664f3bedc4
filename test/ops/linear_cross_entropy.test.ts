// SPDX-License-Identifier: Apache-2.0
/** linear_cross_entropy, loss and every gradient, against the float64 reference on every backend. */
import type { Scalar, Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import { noGradient, valueAndGradients } from '../../src/autograd/index.ts';
import { type LossOptions, linearCrossEntropy } from '../../src/ops/linear_cross_entropy.ts';
import { forEachBackend, hasOwnKernels } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { expectNoLeak } from '../helpers/memory.ts';
import { runWithGradients } from '../helpers/op_run.ts';
import type { Operand } from '../helpers/random_tensors.ts';
import { operandSource, toTensor } from '../helpers/random_tensors.ts';
import { linearCrossEntropyGradients, linearCrossEntropy as reference } from '../reference/linear_cross_entropy.ts';

type Dimensions = { rows: number; dModel: number; vocabSize: number };
type Operands = { hidden: Operand; W: Operand; labels: Operand };

/** Every third label is ignored. */
function operandsFor({ rows, dModel, vocabSize }: Dimensions, deviation = 0.3): Operands {
  const source = operandSource(1000 * vocabSize + dModel);
  const labels = source.integers([rows], vocabSize);
  for (let i = 2; i < rows; i += 3) labels.values[i] = -100;
  return { hidden: source.normal([rows, dModel]), W: source.normal([vocabSize, dModel], deviation), labels };
}

function problemOf(dimensions: Dimensions, { hidden, W, labels }: Operands) {
  return { ...dimensions, hidden: hidden.values, W: W.values, labels: labels.values };
}

function loss(
  { hidden, W, labels }: Record<string, Tensor>,
  options: LossOptions = {},
): { lossSum: Scalar; count: Scalar } {
  return linearCrossEntropy({ hidden: hidden as Tensor2D, W: W as Tensor2D, labels: labels as Tensor1D }, options);
}

function expectLoss(
  dimensions: Dimensions,
  operands: Operands,
  wanted: ('hidden' | 'W')[] = ['hidden', 'W'],
  options: LossOptions = {},
): void {
  const upstream: Operand = { values: Float32Array.of(0.37), shape: [] };
  const { outputs, gradients } = runWithGradients(operands, wanted, (tensors) => [loss(tensors, options).lossSum], [
    upstream,
  ]);
  const problem = { ...problemOf(dimensions, operands), ...options };
  const expected = reference(problem);
  // A vocabulary of one has loss 0: float32 leaves the rounding of logits that cancel.
  expectClose(outputs[0] as Float32Array, [expected.lossSum], {
    name: 'lossSum',
    atol: dimensions.vocabSize === 1 ? 1e-6 : 0,
  });
  const expectedGradients = linearCrossEntropyGradients(problem, upstream.values[0] as number);
  for (const name of wanted)
    expectClose(gradients[name] as Float32Array, expectedGradients[name], { name: `gradient of ${name}` });
  const count = tf.tidy(() => loss(tensorsOf(operands)).count.dataSync());
  expect(Array.from(count as unknown as Float32Array)).toEqual([expected.count]);
}

function tensorsOf(operands: Operands): Record<string, Tensor> {
  return Object.fromEntries(Object.entries(operands).map(([name, operand]) => [name, toTensor(operand)]));
}

const SHAPES: Dimensions[] = [
  { rows: 1, dModel: 1, vocabSize: 1 },
  { rows: 1, dModel: 5, vocabSize: 17 },
  { rows: 3, dModel: 17, vocabSize: 5 },
  { rows: 31, dModel: 48, vocabSize: 33 },
  { rows: 33, dModel: 16, vocabSize: 257 },
];
const LARGE_SHAPES: Dimensions[] = [
  { rows: 129, dModel: 80, vocabSize: 1031 },
  { rows: 300, dModel: 33, vocabSize: 500 },
  { rows: 7, dModel: 24, vocabSize: 5003 },
];
const SMALL: Dimensions = { rows: 8, dModel: 11, vocabSize: 29 };

forEachBackend((backend) => {
  const shapes = hasOwnKernels(backend) ? [...SHAPES, ...LARGE_SHAPES] : SHAPES;
  for (const dimensions of shapes) {
    it(`${dimensions.rows} rows, d_model ${dimensions.dModel}, vocabulary ${dimensions.vocabSize}`, () => {
      expectLoss(dimensions, operandsFor(dimensions));
    });
  }

  describe.each([{ labelSmoothing: 0.1 }, { zLoss: 0.01 }, { labelSmoothing: 0.3, zLoss: 1e-3 }])('%j', (options) => {
    // With a vocabulary of one, what is left of the gradient is rounding.
    for (const dimensions of shapes.slice(1)) {
      it(`${dimensions.rows} rows, d_model ${dimensions.dModel}, vocabulary ${dimensions.vocabSize}`, () => {
        expectLoss(dimensions, operandsFor(dimensions), ['hidden', 'W'], options);
      });
    }

    it('without gradients, and with all labels ignored', () => {
      const operands = operandsFor(SMALL);
      const { lossSum } = reference({ ...problemOf(SMALL, operands), ...options });
      const sum = () => tf.tidy(() => loss(tensorsOf(operands), options).lossSum.dataSync()) as unknown as Float32Array;
      expectClose(sum(), [lossSum]);
      operands.labels.values.fill(-100);
      expect(Array.from(sum())).toEqual([0]);
    });
  });

  it('each gradient alone', () => {
    expectLoss(SMALL, operandsFor(SMALL), ['hidden']);
    expectLoss(SMALL, operandsFor(SMALL), ['W']);
  });

  it('logits far apart', () => expectLoss(SMALL, operandsFor(SMALL, 30)));

  it('logits far from zero', () => {
    const operands = operandsFor(SMALL);
    for (let i = 0; i < operands.hidden.values.length; i += SMALL.dModel) operands.hidden.values[i] = 100;
    for (let i = 0; i < operands.W.values.length; i += SMALL.dModel) operands.W.values[i] = 8;
    const upstream: Operand = { values: Float32Array.of(1), shape: [] };
    const { outputs, gradients } = runWithGradients(operands, ['hidden'], (tensors) => [loss(tensors).lossSum], [
      upstream,
    ]);
    const problem = problemOf(SMALL, operands);
    // Each logit is 800 and more, known to 3e-5 in float32: relative to a loss of 18 and a gradient of 8 that is 1e-5 and less.
    expectClose(outputs[0] as Float32Array, [reference(problem).lossSum], { atol: 6 * 6e-5, rtol: 0 });
    expectClose(gradients.hidden as Float32Array, linearCrossEntropyGradients(problem, 1).hidden, { rtol: 1e-4 });
  });

  it('all labels ignored: nothing to learn, and no NaN', () => {
    const operands = operandsFor(SMALL);
    operands.labels.values.fill(-100);
    expectLoss(SMALL, operands);
  });

  it('the first and the last token as labels', () => {
    const operands = operandsFor(SMALL);
    operands.labels.values.set([0, 28, 28, 0, -100, -1, 28, 0]);
    expectLoss(SMALL, operands);
  });

  describe('a frozen W', () => {
    it('packed in a first call, used in a second, renewed by an assignment', () => {
      const operands = operandsFor(SMALL);
      const other = operandSource(5).normal([SMALL.vocabSize, SMALL.dModel], 0.3);
      const sums = expectNoLeak(() =>
        tf.tidy(() => {
          const { hidden, W: values, labels } = tensorsOf(operands);
          const W = tf.variable(values as Tensor, false);
          const run = () => loss({ hidden: hidden as Tensor, W, labels: labels as Tensor }).lossSum;
          const first = run().dataSync()[0];
          const { value, gradients } = valueAndGradients(run, [hidden as Tensor]);
          const dhidden = (gradients[0] as Tensor).dataSync();
          W.assign(toTensor(other));
          const third = run().dataSync()[0];
          W.dispose();
          return { values: [first, value.dataSync()[0], third], dhidden };
        }),
      ) as unknown as { values: number[]; dhidden: Float32Array };
      const problem = problemOf(SMALL, operands);
      const { lossSum } = reference(problem);
      expectClose(sums.values, [lossSum, lossSum, reference({ ...problem, W: other.values }).lossSum]);
      expectClose(sums.dhidden, linearCrossEntropyGradients(problem, 1).hidden);
    });
  });

  it('computes no gradient where none is asked for', () => {
    const operands = operandsFor(SMALL);
    const { lossSum } = reference(problemOf(SMALL, operands));
    const sum = tf.tidy(() => {
      const tensors = tensorsOf(operands);
      const { value } = valueAndGradients(() => noGradient(() => loss(tensors).lossSum), [tensors.hidden as Tensor]);
      return value.dataSync();
    });
    expectClose(sum as unknown as Float32Array, [lossSum]);
  });

  it('shows a value that is not finite in the loss', () => {
    const operands = operandsFor(SMALL);
    operands.hidden.values[0] = Number.NaN;
    expect(lossOf(operands)).toBeNaN();
    const infinite = operandsFor(SMALL);
    infinite.hidden.values[0] = Number.POSITIVE_INFINITY;
    expect(Number.isFinite(lossOf(infinite))).toBe(false);
  });

  if (hasOwnKernels(backend)) {
    it('does not look at rows that are ignored', () => {
      const operands = operandsFor(SMALL);
      const { lossSum } = reference(problemOf(SMALL, operands));
      operands.hidden.values[2 * SMALL.dModel] = Number.NaN;
      expectClose([lossOf(operands)], [lossSum]);
    });
  }

  // On cuda labels are not read back: the model checks them before they are uploaded.
  if (backend !== 'cuda') {
    it('refuses a label beyond the vocabulary and leaks nothing', () => {
      const operands = operandsFor(SMALL);
      operands.labels.values[4] = 29;
      expectNoLeak(() => {
        expect(() => tf.tidy(() => loss(tensorsOf(operands)))).toThrow(
          'label 29 at position 4 is not below the vocabulary size 29',
        );
      });
    });
  }

  it.each([
    ['hidden', operandSource(1).normal([8, 12]), 'linearCrossEntropy: hidden must have shape [8, 11], got [8, 12]'],
    [
      'hidden',
      operandSource(1).normal([2, 4, 11]),
      'linearCrossEntropy: hidden must have shape [n, d_model], got [2,4,11]',
    ],
    ['W', operandSource(1).normal([11]), 'linearCrossEntropy: W must have shape [vocab_size, d_model], got [11]'],
    ['labels', operandSource(1).integers([7], 5), 'linearCrossEntropy: labels must have shape [8], got [7]'],
    ['labels', operandSource(1).normal([8]), 'linearCrossEntropy: labels must be int32, got float32'],
    ['hidden', operandSource(1).integers([8, 11], 5), 'linearCrossEntropy: hidden must be float32, got int32'],
    ['W', operandSource(1).integers([29, 11], 5), 'linearCrossEntropy: W must be float32, got int32'],
  ])('refuses wrong %s', (name, operand, message) => {
    const operands = { ...operandsFor(SMALL), [name]: operand };
    expect(() => tf.tidy(() => loss(tensorsOf(operands)))).toThrow(message);
  });
});

function lossOf(operands: Operands): number {
  const { lossSum } = tf.tidy(() => ({ lossSum: loss(tensorsOf(operands)).lossSum }));
  const value = lossSum.dataSync()[0] as number;
  lossSum.dispose();
  return value;
}
