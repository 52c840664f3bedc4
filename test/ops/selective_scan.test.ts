// SPDX-License-Identifier: Apache-2.0
/** selective_scan, forward and every gradient, against the float64 reference on every backend. */
import type { Tensor, Tensor1D, Tensor2D, Tensor3D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import type { SelectiveScanOptions } from '../../src/ops/selective_scan.ts';
import { selectiveScan } from '../../src/ops/selective_scan.ts';
import { splitChannels } from '../../src/ops/split_channels.ts';
import { forEachBackend, hasOwnKernels } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { expectNoLeak } from '../helpers/memory.ts';
import { runWithGradients } from '../helpers/op_run.ts';
import type { Operand } from '../helpers/random_tensors.ts';
import { operandSource, toTensor } from '../helpers/random_tensors.ts';
import type { SelectiveScanGradients, SelectiveScanProblem } from '../reference/selective_scan.ts';
import {
  selectiveScan as reference,
  selectiveScanGradients as referenceGradients,
} from '../reference/selective_scan.ts';

const OPTIONAL = ['D', 'z', 'deltaBias', 'seqIdx', 'h0'] as const;
type Optional = (typeof OPTIONAL)[number];
type Dimensions = { batch: number; seqlen: number; dInner: number; dState: number };
type Operands = Record<string, Operand>;

function operandsFor(
  { batch, seqlen, dInner, dState }: Dimensions,
  optional: readonly Optional[] = OPTIONAL,
): Operands {
  const source = operandSource(1000 * seqlen + dInner);
  const A = source.uniform([dInner, dState], -1, 1.5);
  const all: Operands = {
    u: source.normal([batch, seqlen, dInner]),
    delta: source.normal([batch, seqlen, dInner]),
    A: { ...A, values: A.values.map((value) => -Math.exp(value)) as Float32Array },
    B: source.normal([batch, seqlen, dState]),
    C: source.normal([batch, seqlen, dState]),
    D: source.normal([dInner]),
    z: source.normal([batch, seqlen, dInner]),
    deltaBias: source.uniform([dInner], -4, 0),
    seqIdx: documents(batch, seqlen, 7),
    h0: source.normal([batch, dInner, dState]),
  };
  return Object.fromEntries(Object.entries(all).filter(([name]) => !isOptional(name) || optional.includes(name)));
}

const isOptional = (name: string): name is Optional => (OPTIONAL as readonly string[]).includes(name);

/** Document numbers that change every `length` positions, shifted from row to row. */
function documents(batch: number, seqlen: number, length: number): Operand {
  const values = Int32Array.from({ length: batch * seqlen }, (_, i) =>
    Math.floor(((i % seqlen) + Math.floor(i / seqlen)) / length),
  );
  return { values, shape: [batch, seqlen] };
}

function problemOf(dimensions: Dimensions, operands: Operands, deltaSoftplus = true): SelectiveScanProblem {
  const values = Object.fromEntries(Object.entries(operands).map(([name, operand]) => [name, operand.values]));
  return { ...dimensions, ...values, deltaSoftplus } as SelectiveScanProblem;
}

function scan(tensors: Record<string, Tensor>, options: SelectiveScanOptions): Tensor[] {
  const { u, delta, A, B, C, D, z, deltaBias, seqIdx, h0 } = tensors;
  const { out, lastState } = selectiveScan(
    {
      u: u as Tensor3D,
      delta: delta as Tensor3D,
      A: A as Tensor2D,
      B: B as Tensor3D,
      C: C as Tensor3D,
      D: D as Tensor1D,
      z: z as Tensor3D,
      deltaBias: deltaBias as Tensor1D,
      seqIdx: seqIdx as Tensor2D,
      h0: h0 as Tensor3D,
    },
    options,
  );
  return lastState ? [out, lastState] : [out];
}

/** Runs one case and compares the outputs and the gradient of every float operand. */
function expectScan(dimensions: Dimensions, operands: Operands, options: SelectiveScanOptions = {}): void {
  const { batch, seqlen, dInner, dState } = dimensions;
  const source = operandSource(99);
  const dout = source.normal([batch, seqlen, dInner]);
  const dlastState = source.normal([batch, dInner, dState]);
  const upstream = options.returnLastState ? [dout, dlastState] : [dout];
  const wanted = Object.keys(operands).filter((name) => name !== 'seqIdx');

  const { outputs, gradients } = runWithGradients(operands, wanted, (tensors) => scan(tensors, options), upstream);

  const problem = problemOf(dimensions, operands, options.deltaSoftplus);
  const expected = reference(problem);
  expectClose(outputs[0] as Float32Array, expected.out, { name: 'out' });
  if (options.returnLastState) expectClose(outputs[1] as Float32Array, expected.lastState, { name: 'lastState' });
  const expectedGradients = referenceGradients(
    problem,
    dout.values,
    options.returnLastState ? dlastState.values : undefined,
  );
  for (const name of wanted) {
    expectClose(gradients[name] as Float32Array, expectedGradients[name as keyof SelectiveScanGradients], {
      name: `gradient of ${name}`,
    });
  }
}

const SHAPES: Dimensions[] = [
  { batch: 1, seqlen: 1, dInner: 5, dState: 1 },
  { batch: 3, seqlen: 2, dInner: 17, dState: 4 },
  { batch: 1, seqlen: 3, dInner: 48, dState: 16 },
  { batch: 3, seqlen: 31, dInner: 5, dState: 33 },
  { batch: 1, seqlen: 32, dInner: 80, dState: 4 },
  { batch: 3, seqlen: 33, dInner: 17, dState: 16 },
];
const LONG_SHAPES: Dimensions[] = [
  { batch: 3, seqlen: 129, dInner: 17, dState: 16 },
  { batch: 1, seqlen: 129, dInner: 80, dState: 1 },
  { batch: 1, seqlen: 1000, dInner: 48, dState: 16 },
  { batch: 3, seqlen: 1000, dInner: 5, dState: 4 },
  { batch: 1, seqlen: 2048, dInner: 17, dState: 16 },
  { batch: 1, seqlen: 2048, dInner: 5, dState: 33 },
  { batch: 110, seqlen: 33, dInner: 5, dState: 12 }, // eight threads a channel on CUDA
];
const SMALL: Dimensions = { batch: 2, seqlen: 9, dInner: 19, dState: 5 };
const label = ({ batch, seqlen, dInner, dState }: Dimensions) =>
  `batch ${batch}, seqlen ${seqlen}, d_inner ${dInner}, d_state ${dState}`;

forEachBackend((backend) => {
  const shapes = hasOwnKernels(backend) ? [...SHAPES, ...LONG_SHAPES] : SHAPES;

  describe('shapes', () => {
    for (const dimensions of shapes) {
      it(`${label(dimensions)}, every operand`, () => {
        expectScan(dimensions, operandsFor(dimensions), { returnLastState: true });
      });
      it(`${label(dimensions)}, as the model calls it`, () => {
        expectScan(dimensions, operandsFor(dimensions, ['D', 'z', 'deltaBias']));
      });
    }
  });

  describe('optional operands', () => {
    it('none', () => expectScan(SMALL, operandsFor(SMALL, [])));
    for (const name of OPTIONAL) {
      it(`only ${name}`, () => expectScan(SMALL, operandsFor(SMALL, [name])));
      it(`all but ${name}`, () => {
        expectScan(
          SMALL,
          operandsFor(
            SMALL,
            OPTIONAL.filter((other) => other !== name),
          ),
          { returnLastState: true },
        );
      });
    }
    it('an operand given as null is an absent one', () => {
      const operands = operandsFor(SMALL, []);
      const { outputs } = runWithGradients(
        operands,
        [],
        ({ u, delta, A, B, C }) => {
          const inputs = {
            u: u as Tensor3D,
            delta: delta as Tensor3D,
            A: A as Tensor2D,
            B: B as Tensor3D,
            C: C as Tensor3D,
          };
          return [selectiveScan({ ...inputs, D: null, z: null, deltaBias: null, seqIdx: null, h0: null }).out];
        },
        [operandSource(1).normal([SMALL.batch, SMALL.seqlen, SMALL.dInner])],
      );
      expectClose(outputs[0] as Float32Array, reference(problemOf(SMALL, operands)).out);
    });
    it('delta without softplus', () => {
      const operands = operandsFor(SMALL);
      operands.delta = operandSource(3).uniform(operands.delta?.shape ?? [], 0.001, 0.5);
      operands.deltaBias = operandSource(4).uniform([SMALL.dInner], 0, 0.1);
      expectScan(SMALL, operands, { deltaSoftplus: false, returnLastState: true });
    });
  });

  it('both sides of the softplus threshold', () => {
    const edges = [19.5, 19.999, 20, 20.001, 20.5, 30, 60, 12, 1e-3, 0, -1e-3, -10, -20, -50, -90, -120];
    const operands = operandsFor(SMALL, ['D', 'z']);
    const delta = operands.delta as Operand;
    operands.delta = { ...delta, values: Float32Array.from(delta.values, (_, i) => edges[i % edges.length] as number) };
    expectScan(SMALL, operands, { returnLastState: true });
  });

  it('resets at the second and at the last position, in each row at another', () => {
    const operands = operandsFor(SMALL);
    const rows = [
      [0, 1, 1, 1, 1, 1, 1, 1, 2],
      [5, 5, 5, 5, 4, 4, 4, 4, 4],
    ];
    operands.seqIdx = { values: Int32Array.from(rows.flat()), shape: [SMALL.batch, SMALL.seqlen] };
    expectScan(SMALL, operands, { returnLastState: true });
  });

  it('a document of its own at every position', () => {
    const operands = operandsFor(SMALL);
    operands.seqIdx = documents(SMALL.batch, SMALL.seqlen, 1);
    expectScan(SMALL, operands, { returnLastState: true });
  });

  it('a gradient through lastState alone', () => {
    const operands = operandsFor(SMALL);
    const dlastState = operandSource(5).normal([SMALL.batch, SMALL.dInner, SMALL.dState]);
    const wanted = ['u', 'delta', 'A', 'B', 'deltaBias', 'h0'];
    const { gradients } = runWithGradients(
      operands,
      wanted,
      (tensors) => scan(tensors, { returnLastState: true }).slice(1),
      [dlastState],
    );
    const zeros = new Float32Array(SMALL.batch * SMALL.seqlen * SMALL.dInner);
    const expected = referenceGradients(problemOf(SMALL, operands), zeros, dlastState.values);
    for (const name of wanted)
      expectClose(gradients[name] as Float32Array, expected[name as keyof SelectiveScanGradients], { name });
  });

  it('carries the state over two halves', () => {
    const operands = operandsFor(SMALL, ['D', 'z', 'deltaBias', 'h0']);
    const split = 4;
    const outputs = expectNoLeak(() =>
      tf.tidy(() => {
        const tensors = Object.fromEntries(
          Object.entries(operands).map(([name, operand]) => [name, toTensor(operand)]),
        );
        const half = (from: number, length: number) =>
          Object.fromEntries(
            Object.entries(tensors).map(([name, tensor]) => [
              name,
              ['u', 'delta', 'B', 'C', 'z'].includes(name) ? tf.slice(tensor, [0, from, 0], [-1, length, -1]) : tensor,
            ]),
          );
        const [first, state] = scan(half(0, split), { returnLastState: true });
        const [second] = scan({ ...half(split, SMALL.seqlen - split), h0: state as Tensor }, {});
        return tf.concat([first as Tensor, second as Tensor], 1).dataSync();
      }),
    );
    expectClose(outputs as unknown as Float32Array, reference(problemOf(SMALL, operands)).out);
  });

  it('takes columns of a wider matrix, and their gradient lands in it', () => {
    const { batch, seqlen, dInner, dState } = SMALL;
    const operands = operandsFor(SMALL, ['D', 'z', 'deltaBias']);
    const order = ['u', 'B', 'z', 'C', 'delta'];
    const widths = order.map((name) => operands[name]?.shape[2] ?? 0);
    const packed = interleave(
      order.map((name) => operands[name] as Operand),
      batch * seqlen,
    );
    const dout = operandSource(6).normal([batch, seqlen, dInner]);
    const { outputs, gradients } = runWithGradients(
      {
        A: operands.A as Operand,
        D: operands.D as Operand,
        deltaBias: operands.deltaBias as Operand,
        packed: { ...packed, shape: [batch, seqlen, 3 * dInner + 2 * dState] },
      },
      ['packed', 'A'],
      ({ packed: wide, ...rest }) => {
        const parts = splitChannels(wide as Tensor, widths);
        return scan({ ...rest, ...Object.fromEntries(order.map((name, i) => [name, parts[i] as Tensor])) }, {});
      },
      [dout],
    );
    const problem = problemOf(SMALL, operands);
    const expected = referenceGradients(problem, dout.values);
    expectClose(outputs[0] as Float32Array, reference(problem).out, { name: 'out' });
    expectClose(gradients.A as Float32Array, expected.A, { name: 'A' });
    for (const [i, name] of order.entries()) {
      const columns = columnsOf(gradients.packed as Float32Array, batch * seqlen, widths, i);
      expectClose(columns, expected[name as keyof SelectiveScanGradients], { name: `columns of ${name}` });
    }
  });

  it('gives the same gradients when only some are wanted', () => {
    const operands = operandsFor(SMALL);
    const dout = operandSource(7).normal([SMALL.batch, SMALL.seqlen, SMALL.dInner]);
    const expected = referenceGradients(problemOf(SMALL, operands), dout.values);
    for (const name of Object.keys(operands).filter((key) => key !== 'seqIdx')) {
      const { gradients } = runWithGradients(operands, [name], (tensors) => scan(tensors, {}), [dout]);
      expectClose(gradients[name] as Float32Array, expected[name as keyof SelectiveScanGradients], { name });
    }
  });

  it('lets a value that is not finite through to its channel and its future, and no further', () => {
    const { batch, seqlen, dInner } = SMALL;
    const operands = operandsFor(SMALL, ['D', 'z']);
    const [t, c] = [4, 3];
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const u = operands.u as Operand;
      const values = u.values.slice() as Float32Array;
      values[t * dInner + c] = bad;
      const { outputs } = runWithGradients({ ...operands, u: { ...u, values } }, [], (tensors) => scan(tensors, {}), [
        operandSource(1).normal([batch, seqlen, dInner]),
      ]);
      const finite = Array.from(outputs[0] as Float32Array, Number.isFinite);
      const expected = finite.map((_, i) => !(i % dInner === c && i >= t * dInner && i < seqlen * dInner));
      expect(finite).toEqual(expected);
    }
  });

  it.each([
    ['delta', [2, 9, 18], 'selectiveScan: delta must have shape [2, 9, 19], got [2, 9, 18]'],
    ['A', [18, 5], 'selectiveScan: A must have shape [19, 5], got [18, 5]'],
    ['A', [19], 'selectiveScan: A must have shape [d_inner, d_state], got [19]'],
    ['B', [2, 9, 4], 'selectiveScan: B must have shape [2, 9, 5], got [2, 9, 4]'],
    ['C', [1, 9, 5], 'selectiveScan: C must have shape [2, 9, 5], got [1, 9, 5]'],
    ['D', [1], 'selectiveScan: D must have shape [19], got [1]'],
    ['z', [2, 9], 'selectiveScan: z must have shape [2, 9, 19], got [2, 9]'],
    ['deltaBias', [19, 1], 'selectiveScan: deltaBias must have shape [19], got [19, 1]'],
    ['h0', [2, 19, 6], 'selectiveScan: h0 must have shape [2, 19, 5], got [2, 19, 6]'],
    ['u', [9, 19], 'selectiveScan: u must have shape [batch, seqlen, d_inner], got [9,19]'],
  ])('refuses %s of shape %j', (name, shape, message) => {
    const operands = { ...operandsFor(SMALL), [name]: operandSource(1).normal(shape) };
    expect(() => runWithGradients(operands, [], (tensors) => scan(tensors, {}), [])).toThrow(message);
  });

  it.each([
    ['u', 'float32', 'int32'],
    ['seqIdx', 'int32', 'float32'],
    ['h0', 'float32', 'int32'],
  ])('refuses %s of another dtype', (name, wanted, given) => {
    const operands = operandsFor(SMALL);
    const run = () =>
      tf.tidy(() =>
        scan(
          Object.fromEntries(
            Object.entries(operands).map(([key, operand]) => [
              key,
              key === name ? tf.cast(toTensor(operand), given as 'int32') : toTensor(operand),
            ]),
          ),
          {},
        ),
      );
    expect(run).toThrow(`selectiveScan: ${name} must be ${wanted}, got ${given}`);
  });
});

/** Matrices of `rows` rows side by side. */
function interleave(parts: Operand[], rows: number): Operand {
  const widths = parts.map(({ values }) => values.length / rows);
  const total = widths.reduce((a, b) => a + b, 0);
  const values = new Float32Array(rows * total);
  let begin = 0;
  for (const [i, part] of parts.entries()) {
    const width = widths[i] as number;
    for (let row = 0; row < rows; row++)
      values.set(part.values.subarray(row * width, (row + 1) * width), row * total + begin);
    begin += width;
  }
  return { values, shape: [rows, total] };
}

function columnsOf(values: Float32Array, rows: number, widths: number[], part: number): Float32Array {
  const total = widths.reduce((a, b) => a + b, 0);
  const begin = widths.slice(0, part).reduce((a, b) => a + b, 0);
  const width = widths[part] as number;
  const out = new Float32Array(rows * width);
  for (let row = 0; row < rows; row++)
    out.set(values.subarray(row * total + begin, row * total + begin + width), row * width);
  return out;
}
