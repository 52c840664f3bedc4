// SPDX-License-Identifier: Apache-2.0
/** lora_embedding, forward and every gradient, against the float64 reference on every backend. */
import type { Tensor, Tensor2D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { loraEmbedding } from '../../src/ops/lora_embedding.ts';
import { forEachBackend, hasOwnKernels } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { expectNoLeak } from '../helpers/memory.ts';
import { runWithGradients } from '../helpers/op_run.ts';
import type { Operand } from '../helpers/random_tensors.ts';
import { operandSource, toTensor } from '../helpers/random_tensors.ts';
import type { LoraEmbeddingProblem } from '../reference/lora_embedding.ts';
import { loraEmbeddingGradients, loraEmbedding as reference } from '../reference/lora_embedding.ts';

type Dimensions = { ids: number[]; vocabSize: number; dModel: number; r: number };
type Operands = Record<string, Operand>;

function operandsFor({ ids, vocabSize, dModel, r }: Dimensions): Operands {
  const source = operandSource(1000 * vocabSize + dModel);
  return {
    ids: source.integers(ids, vocabSize),
    W: source.normal([vocabSize, dModel]),
    ...(r > 0 && { loraA: source.normal([r, vocabSize]), loraB: source.normal([dModel, r]) }),
  };
}

function problemOf({ vocabSize, dModel, r }: Dimensions, operands: Operands, scaling: number): LoraEmbeddingProblem {
  const values = Object.fromEntries(Object.entries(operands).map(([name, operand]) => [name, operand.values]));
  return { rows: operands.ids?.values.length, vocabSize, dModel, r, scaling, ...values } as LoraEmbeddingProblem;
}

function embed({ ids, W, loraA, loraB }: Record<string, Tensor>, scaling?: number): Tensor {
  return loraEmbedding(
    { ids: ids as Tensor, W: W as Tensor2D, loraA: loraA as Tensor2D, loraB: loraB as Tensor2D },
    scaling,
  );
}

function expectEmbedding(
  dimensions: Dimensions,
  operands: Operands,
  scaling = 1,
  wanted = Object.keys(operands).slice(1),
): void {
  const dout = operandSource(99).normal([...dimensions.ids, dimensions.dModel]);
  const { outputs, gradients } = runWithGradients(operands, wanted, (tensors) => [embed(tensors, scaling)], [dout]);
  const problem = problemOf(dimensions, operands, scaling);
  expectClose(outputs[0] as Float32Array, reference(problem), { name: 'out' });
  const expected = loraEmbeddingGradients(problem, dout.values);
  for (const name of wanted)
    expectClose(gradients[name] as Float32Array, expected[name as 'W'], { name: `gradient of ${name}` });
}

const SHAPES: Dimensions[] = [
  { ids: [1], vocabSize: 1, dModel: 1, r: 1 },
  { ids: [1, 1], vocabSize: 7, dModel: 5, r: 2 },
  { ids: [3, 31], vocabSize: 11, dModel: 17, r: 4 },
  { ids: [2, 33], vocabSize: 97, dModel: 48, r: 8 },
  { ids: [2, 3, 4], vocabSize: 33, dModel: 80, r: 3 },
];
const LARGE_SHAPES: Dimensions[] = [
  { ids: [4, 250], vocabSize: 1000, dModel: 80, r: 8 },
  { ids: [2048], vocabSize: 3, dModel: 17, r: 16 },
];
const SMALL: Dimensions = { ids: [2, 5], vocabSize: 13, dModel: 19, r: 4 };

forEachBackend((backend) => {
  const shapes = hasOwnKernels(backend) ? [...SHAPES, ...LARGE_SHAPES] : SHAPES;
  for (const dimensions of shapes) {
    const label = `ids [${dimensions.ids}] of ${dimensions.vocabSize}, d_model ${dimensions.dModel}, r ${dimensions.r}`;
    it(label, () => expectEmbedding(dimensions, operandsFor(dimensions), 1.5));
    it(`${label}, no adapter`, () => expectEmbedding({ ...dimensions, r: 0 }, operandsFor({ ...dimensions, r: 0 })));
  }

  it('each gradient alone', () => {
    for (const name of ['W', 'loraA', 'loraB']) expectEmbedding(SMALL, operandsFor(SMALL), 2, [name]);
  });

  it('one id at every position', () => {
    const operands = operandsFor(SMALL);
    operands.ids?.values.fill(12);
    expectEmbedding(SMALL, operands, 0.5);
  });

  it('shows a row of W that is not finite where it is looked up', () => {
    const operands = operandsFor({ ...SMALL, r: 0 });
    operands.ids = { values: Int32Array.of(1, 4, 1, 0, 4), shape: [5] };
    (operands.W as Operand).values[4 * SMALL.dModel + 2] = Number.NaN;
    const out = tf.tidy(() =>
      embed({ ids: toTensor(operands.ids as Operand), W: toTensor(operands.W as Operand) }).dataSync(),
    );
    const bad = Array.from(out as unknown as Float32Array).flatMap((value, i) => (Number.isNaN(value) ? [i] : []));
    expect(bad).toEqual([SMALL.dModel + 2, 4 * SMALL.dModel + 2]);
  });

  // On cuda ids are not read back: the model checks them before they are uploaded.
  if (backend !== 'cuda') {
    it.each([
      [13, 'index 13 at position 3 lies outside [0, 13)'],
      [-1, 'index -1 at position 3 lies outside [0, 13)'],
      [2 ** 31 - 1, 'index 2147483647 at position 3 lies outside [0, 13)'],
    ])('refuses the id %d and leaks nothing', (id, message) => {
      const operands = operandsFor(SMALL);
      (operands.ids as Operand).values[3] = id;
      expectNoLeak(() => {
        expect(() =>
          tf.tidy(() => embed(Object.fromEntries(Object.entries(operands).map(([name, o]) => [name, toTensor(o)])))),
        ).toThrow(message);
      });
    });
  }

  it.each([
    ['loraA', [4, 12], 'loraEmbedding: loraA must have shape [4, 13], got [4, 12]'],
    ['loraB', [4, 19], 'loraEmbedding: loraB must have shape [19, 4], got [4, 19]'],
    ['W', [13], 'loraEmbedding: W must have shape [vocab_size, d_model], got [13]'],
  ])('refuses %s of shape %j', (name, shape, message) => {
    const operands = { ...operandsFor(SMALL), [name]: operandSource(1).normal(shape) };
    expect(() => runWithGradients(operands, [], (tensors) => [embed(tensors)], [])).toThrow(message);
  });

  it('refuses half an adapter and ids that are not int32', () => {
    const { loraA: _dropped, ...half } = operandsFor(SMALL);
    const run = (operands: Operands) => () => runWithGradients(operands, [], (tensors) => [embed(tensors)], []);
    expect(run(half)).toThrow('loraEmbedding: loraA and loraB must be given together');
    expect(run({ ...operandsFor(SMALL), ids: operandSource(1).normal([2, 5]) })).toThrow(
      'loraEmbedding: ids must be int32, got float32',
    );
  });
});
