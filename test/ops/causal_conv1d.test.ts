// SPDX-License-Identifier: Apache-2.0
/** causal_conv1d, forward and every gradient, against the float64 reference on every backend. */
import type { Tensor, Tensor1D, Tensor2D, Tensor3D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import type { CausalConv1dOptions } from '../../src/ops/causal_conv1d.ts';
import { causalConv1d } from '../../src/ops/causal_conv1d.ts';
import { splitChannels } from '../../src/ops/split_channels.ts';
import { forEachBackend, hasOwnKernels } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { runWithGradients } from '../helpers/op_run.ts';
import type { Operand } from '../helpers/random_tensors.ts';
import { operandSource, toTensor } from '../helpers/random_tensors.ts';
import type { CausalConv1dProblem } from '../reference/causal_conv1d.ts';
import { causalConv1dGradients, causalConv1d as reference } from '../reference/causal_conv1d.ts';

const OPTIONAL = ['bias', 'seqIdx', 'convState'] as const;
type Optional = (typeof OPTIONAL)[number];
type Dimensions = { batch: number; seqlen: number; dInner: number; dConv: number };
type Operands = Record<string, Operand>;

function operandsFor({ batch, seqlen, dInner, dConv }: Dimensions, optional: readonly Optional[] = OPTIONAL): Operands {
  const source = operandSource(1000 * seqlen + dInner);
  const row = (b: number, t: number) => Math.floor((t + 2 * b) / 5);
  const seqIdx = Int32Array.from({ length: batch * seqlen }, (_, i) => row(Math.floor(i / seqlen), i % seqlen));
  const all: Operands = {
    x: source.normal([batch, seqlen, dInner]),
    weight: source.normal([dInner, dConv]),
    bias: source.normal([dInner]),
    seqIdx: { values: seqIdx, shape: [batch, seqlen] },
    convState: source.normal([batch, dConv - 1, dInner]),
  };
  const chosen = Object.entries(all).filter(([name]) => ['x', 'weight', ...optional].includes(name));
  return Object.fromEntries(chosen);
}

function problemOf(dimensions: Dimensions, operands: Operands, silu = true): CausalConv1dProblem {
  const values = Object.fromEntries(Object.entries(operands).map(([name, operand]) => [name, operand.values]));
  return { ...dimensions, ...values, silu } as CausalConv1dProblem;
}

function conv(tensors: Record<string, Tensor>, options: CausalConv1dOptions): ReturnType<typeof causalConv1d> {
  const { x, weight, bias, seqIdx, convState } = tensors;
  return causalConv1d(
    {
      x: x as Tensor3D,
      weight: weight as Tensor2D,
      bias: bias as Tensor1D,
      seqIdx: seqIdx as Tensor2D,
      convState: convState as Tensor3D,
    },
    options,
  );
}

/** Compares y, the last inputs (bit for bit) and the gradients of x, weight and bias. */
function expectConv(dimensions: Dimensions, operands: Operands, options: CausalConv1dOptions = {}): void {
  const { batch, seqlen, dInner } = dimensions;
  const dy = operandSource(99).normal([batch, seqlen, dInner]);
  const problem = problemOf(dimensions, operands, options.silu);
  const expected = reference(problem);
  const wanted = ['x', 'weight', 'bias'].filter((name) => operands[name]);
  const { outputs, gradients } = runWithGradients(operands, wanted, (tensors) => [conv(tensors, options).y], [dy]);
  expectClose(outputs[0] as Float32Array, expected.y, { name: 'y' });
  const expectedGradients = causalConv1dGradients(problem, dy.values);
  for (const name of wanted) {
    expectClose(gradients[name] as Float32Array, expectedGradients[name as 'x'], { name: `gradient of ${name}` });
  }
  const state = tf.tidy(() => {
    const tensors = Object.fromEntries(Object.entries(operands).map(([name, operand]) => [name, toTensor(operand)]));
    return (conv(tensors, { ...options, returnLastState: true }).lastConvState as Tensor).dataSync();
  });
  expect(Float64Array.from(state as unknown as Float32Array)).toEqual(expected.lastConvState);
}

const SHAPES: Dimensions[] = [
  { batch: 1, seqlen: 1, dInner: 5, dConv: 4 },
  { batch: 3, seqlen: 2, dInner: 17, dConv: 4 },
  { batch: 1, seqlen: 3, dInner: 48, dConv: 2 },
  { batch: 3, seqlen: 31, dInner: 5, dConv: 3 },
  { batch: 1, seqlen: 32, dInner: 80, dConv: 4 },
  { batch: 3, seqlen: 33, dInner: 17, dConv: 8 },
  { batch: 2, seqlen: 7, dInner: 16, dConv: 1 },
  { batch: 1, seqlen: 4, dInner: 33, dConv: 8 },
];
const LONG_SHAPES: Dimensions[] = [
  { batch: 3, seqlen: 129, dInner: 17, dConv: 4 },
  { batch: 1, seqlen: 1000, dInner: 80, dConv: 4 },
  { batch: 1, seqlen: 2048, dInner: 48, dConv: 4 },
];
const SMALL: Dimensions = { batch: 2, seqlen: 9, dInner: 19, dConv: 4 };

forEachBackend((backend) => {
  const shapes = hasOwnKernels(backend) ? [...SHAPES, ...LONG_SHAPES] : SHAPES;
  for (const dimensions of shapes) {
    const { batch, seqlen, dInner, dConv } = dimensions;
    const label = `batch ${batch}, seqlen ${seqlen}, d_inner ${dInner}, d_conv ${dConv}`;
    it(`${label}, every operand`, () => expectConv(dimensions, operandsFor(dimensions)));
    it(`${label}, as the model calls it`, () => expectConv(dimensions, operandsFor(dimensions, ['bias'])));
  }

  describe('optional operands', () => {
    it('none', () => expectConv(SMALL, operandsFor(SMALL, [])));
    for (const name of OPTIONAL) {
      it(`only ${name}`, () => expectConv(SMALL, operandsFor(SMALL, [name])));
      it(`all but ${name}`, () => {
        expectConv(
          SMALL,
          operandsFor(
            SMALL,
            OPTIONAL.filter((other) => other !== name),
          ),
        );
      });
    }
    it('no SiLU', () => expectConv(SMALL, operandsFor(SMALL), { silu: false }));
  });

  it('resets at the second and at the last position', () => {
    const operands = operandsFor(SMALL);
    const rows = [
      [0, 1, 1, 1, 1, 1, 1, 1, 2],
      [5, 5, 5, 5, 4, 4, 4, 4, 4],
    ];
    operands.seqIdx = { values: Int32Array.from(rows.flat()), shape: [SMALL.batch, SMALL.seqlen] };
    expectConv(SMALL, operands);
  });

  it('saturated pre-activations', () => {
    const operands = operandsFor(SMALL, ['bias']);
    const values = Float32Array.from({ length: SMALL.dInner }, (_, i) => [-200, -90, -30, 30, 200][i % 5] as number);
    operands.bias = { values, shape: [SMALL.dInner] };
    expectConv(SMALL, operands);
  });

  it('takes columns of a wider matrix, and their gradient lands in it', () => {
    const { batch, seqlen, dInner } = SMALL;
    const operands = operandsFor(SMALL, ['bias']);
    const wide = operandSource(4).normal([batch, seqlen, 2 * dInner]);
    const left = Float32Array.from({ length: batch * seqlen * dInner }, (_, i) => {
      return wide.values[Math.floor(i / dInner) * 2 * dInner + (i % dInner)] as number;
    });
    const dy = operandSource(5).normal([batch, seqlen, dInner]);
    const { outputs, gradients } = runWithGradients(
      { ...operands, wide },
      ['wide'],
      ({ wide: matrix, ...rest }) => [
        conv({ ...rest, x: splitChannels(matrix as Tensor, [dInner, dInner])[0] as Tensor }, {}).y,
      ],
      [dy],
    );
    const problem = { ...problemOf(SMALL, operands), x: left };
    expectClose(outputs[0] as Float32Array, reference(problem).y);
    const dx = causalConv1dGradients(problem, dy.values).x;
    const expected = Float64Array.from({ length: batch * seqlen * 2 * dInner }, (_, i) => {
      const column = i % (2 * dInner);
      return column < dInner ? (dx[Math.floor(i / (2 * dInner)) * dInner + column] as number) : 0;
    });
    expectClose(gradients.wide as Float32Array, expected);
  });

  it('continues from the state that it returned', () => {
    const operands = operandsFor(SMALL, ['bias', 'convState']);
    const { batch, seqlen, dInner } = SMALL;
    const y = tf.tidy(() => {
      const tensors = Object.fromEntries(
        Object.entries(operands).map(([name, operand]) => [name, toTensor(operand)]),
      ) as Record<'x' | 'convState', Tensor>;
      let convState = tensors.convState;
      const parts: Tensor[] = [];
      for (let t = 0; t < seqlen; t++) {
        const x = tf.slice(tensors.x, [0, t, 0], [batch, 1, dInner]);
        const step = conv({ ...tensors, x, convState }, { returnLastState: true });
        convState = step.lastConvState as Tensor;
        parts.push(step.y);
      }
      return tf.concat(parts, 1).dataSync();
    });
    expectClose(y as unknown as Float32Array, reference(problemOf(SMALL, operands)).y);
  });

  it('lets a value that is not finite through to the taps that see it, and no further', () => {
    const operands = operandsFor(SMALL, []);
    const x = operands.x as Operand;
    const [t, c] = [2, 7];
    const values = x.values.slice() as Float32Array;
    values[t * SMALL.dInner + c] = Number.NaN;
    const dy = operandSource(1).normal(x.shape);
    const inputs = { ...operands, x: { ...x, values } };
    const { outputs } = runWithGradients(inputs, [], (tensors) => [conv(tensors, {}).y], [dy]);
    const bad = Array.from(outputs[0] as Float32Array).flatMap((value, i) => (Number.isNaN(value) ? [i] : []));
    expect(bad).toEqual([2, 3, 4, 5].map((row) => row * SMALL.dInner + c));
  });

  it.each([
    ['x', [9, 19], 'causalConv1d: x must have shape [batch, seqlen, d_inner], got [9,19]'],
    ['weight', [18, 4], 'causalConv1d: weight must have shape [19, 4], got [18, 4]'],
    ['weight', [19, 9], 'causalConv1d: weight must have shape [d_inner, d_conv] with d_conv in 1..8, got [19,9]'],
    ['bias', [4], 'causalConv1d: bias must have shape [19], got [4]'],
    ['convState', [2, 4, 19], 'causalConv1d: convState must have shape [2, 3, 19], got [2, 4, 19]'],
  ])('refuses %s of shape %j', (name, shape, message) => {
    const operands = { ...operandsFor(SMALL), [name]: operandSource(1).normal(shape) };
    expect(() => runWithGradients(operands, [], (tensors) => [conv(tensors, {}).y], [])).toThrow(message);
  });

  it.each([
    ['seqIdx', operandSource(1).normal([2, 9]), 'causalConv1d: seqIdx must be int32, got float32'],
    ['bias', operandSource(1).integers([19], 5), 'causalConv1d: bias must be float32, got int32'],
  ])('refuses %s of another dtype', (name, operand, message) => {
    const operands = { ...operandsFor(SMALL), [name]: operand };
    expect(() => runWithGradients(operands, [], (tensors) => [conv(tensors, {}).y], [])).toThrow(message);
  });
});
