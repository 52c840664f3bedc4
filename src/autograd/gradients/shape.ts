// SPDX-License-Identifier: Apache-2.0
/** Gradients of tfjs-core's kernels that move, join, reduce or look up elements. */
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { defineGradient, only, present } from '../definition.ts';
import { reduceTo } from './elementwise.ts';

const inputShape = (inputs: Record<string, Tensor>, name = 'x') => present(inputs[name]).shape;

for (const [kernelName, input] of [
  ['Reshape', 'x'],
  ['ExpandDims', 'input'],
] as const) {
  defineGradient(kernelName, {
    save: () => [],
    grad: (dys, _saved, { inputs }) => ({ [input]: tf.reshape(only(dys), inputShape(inputs, input)) }),
  });
}

defineGradient('Transpose', {
  save: () => [],
  grad: (dys, _saved, { attrs }) => {
    const perm = attrs.perm as number[];
    return { x: tf.transpose(only(dys), tf.backend_util.getUndoAxesPermutation(perm)) };
  },
});

defineGradient('Slice', {
  save: () => [],
  grad: (dys, _saved, { inputs, attrs }) => {
    const shape = inputShape(inputs);
    const [begin = [], size = []] = tf.slice_util.parseSliceParams(
      present(inputs.x),
      attrs.begin as number[],
      attrs.size as number[],
    );
    const paddings = shape.map((length, i): [number, number] => {
      const first = begin[i] ?? 0;
      return [first, length - first - (size[i] ?? 0)];
    });
    return { x: tf.pad(only(dys), paddings) };
  },
});

defineGradient('PadV2', {
  save: () => [],
  grad: (dys, _saved, { inputs, attrs }) => {
    const begin = (attrs.paddings as [number, number][]).map(([before]) => before);
    return { x: tf.slice(only(dys), begin, inputShape(inputs)) };
  },
});

defineGradient('Concat', {
  save: () => [],
  grad: (dys, _saved, { inputs, attrs, needs }) => {
    const dy = only(dys);
    const axis = tf.util.parseAxisParam(attrs.axis as number, dy.shape)[0] as number;
    const result: Record<string, Tensor> = {};
    const begin = dy.shape.map(() => 0);
    for (const name of Object.keys(inputs)) {
      const shape = inputShape(inputs, name);
      if (needs(name)) result[name] = tf.slice(dy, begin, shape);
      begin[axis] = (begin[axis] ?? 0) + (shape[axis] ?? 0);
    }
    return result;
  },
});

defineGradient('SplitV', {
  save: () => [],
  grad: (dys, _saved, { inputs, attrs }) => {
    const x = present(inputs.x);
    const axis = tf.util.parseAxisParam(attrs.axis as number, x.shape)[0] as number;
    const sizes = tf.backend_util.prepareSplitSize(x, attrs.numOrSizeSplits as number | number[], axis);
    return { x: tf.concat(fillMissing(dys, sizes, x.shape, axis), axis) };
  },
});

/** Zeros for the parts of a split that no gradient reached. */
export function fillMissing(dys: (Tensor | null)[], sizes: number[], shape: number[], axis: number): Tensor[] {
  return dys.map((dy, i) => dy ?? tf.fill(shape.with(axis, sizes[i] ?? 0), 0));
}

defineGradient('Pack', {
  save: () => [],
  grad: (dys, _saved, { inputs, attrs }) => {
    const parts = tf.unstack(only(dys), attrs.axis as number);
    return Object.fromEntries(Object.keys(inputs).map((name, i) => [name, present(parts[i])]));
  },
});

defineGradient('Unpack', {
  save: () => [],
  grad: (dys, _saved, { inputs, attrs }) => {
    const axis = tf.util.parseAxisParam(attrs.axis as number, inputShape(inputs, 'value'))[0] as number;
    const shape = inputShape(inputs, 'value').filter((_, i) => i !== axis);
    return {
      value: tf.stack(
        dys.map((dy) => dy ?? tf.fill(shape, 0)),
        axis,
      ),
    };
  },
});

/** Spreads the gradient of a reduction over the reduced axes. */
function spread(dy: Tensor, shape: number[], axis: unknown): Tensor {
  const axes = tf.util.parseAxisParam(axis as number | number[], shape);
  const kept = shape.map((size, i) => (axes.includes(i) ? 1 : size));
  return tf.mul(tf.reshape(dy, kept), tf.ones(shape));
}

defineGradient('Sum', {
  save: () => [],
  grad: (dys, _saved, { inputs, attrs }) => ({ x: spread(only(dys), inputShape(inputs), attrs.axis) }),
});

defineGradient('Mean', {
  save: () => [],
  grad: (dys, _saved, { inputs, attrs }) => {
    const shape = inputShape(inputs);
    const dy = only(dys);
    return { x: tf.div(spread(dy, shape, attrs.axis), tf.util.sizeFromShape(shape) / tf.util.sizeFromShape(dy.shape)) };
  },
});

defineGradient('Tile', {
  save: () => [],
  grad: (dys, _saved, { inputs, attrs }) => {
    const shape = inputShape(inputs);
    const reps = attrs.reps as number[];
    const split = tf.reshape(
      only(dys),
      shape.flatMap((size, i) => [reps[i] ?? 1, size]),
    );
    return {
      x: tf.sum(
        split,
        shape.map((_, i) => 2 * i),
      ),
    };
  },
});

defineGradient('Cumsum', {
  save: () => [],
  grad: (dys, _saved, { attrs }) => {
    const { axis, exclusive, reverse } = attrs as { axis: number; exclusive: boolean; reverse: boolean };
    return { x: tf.cumsum(only(dys), axis, exclusive, !reverse) };
  },
});

/** Row lookup on axis 0 with the adjoint written as a product with one-hot rows, so that any backend has it. */
defineGradient('GatherV2', {
  save: ({ inputs }) => [present(inputs.indices)],
  grad: (dys, [indices], { inputs, attrs }) => {
    const shape = inputShape(inputs);
    if ((attrs.axis as number) !== 0 || (attrs.batchDims as number) !== 0) {
      throw new Error('the gradient of GatherV2 is defined for axis 0 without batch dimensions');
    }
    const rows = shape[0] ?? 0;
    const flat = tf.reshape(present(indices), [-1]);
    const dy = tf.reshape(only(dys), [flat.size, -1]);
    const oneHot = tf.cast(
      tf.equal(tf.reshape(flat, [1, -1]), tf.reshape(tf.range(0, rows, 1, 'int32'), [-1, 1])),
      'float32',
    );
    return { x: tf.reshape(tf.matMul(oneHot, dy), shape) };
  },
});

defineGradient('BatchMatMul', {
  save: ({ inputs, needs }) => [needs('b') ? present(inputs.a) : null, needs('a') ? present(inputs.b) : null],
  grad: (dys, [a, b], { attrs, needs, inputs }) => {
    const dy = only(dys);
    const { transposeA, transposeB } = attrs as { transposeA: boolean; transposeB: boolean };
    const result: Record<string, Tensor> = {};
    if (needs('a')) {
      const w = present(b);
      result.a = reduceTo(
        transposeA ? tf.matMul(w, dy, transposeB, true) : tf.matMul(dy, w, false, !transposeB),
        inputShape(inputs, 'a'),
      );
    }
    if (needs('b')) {
      const x = present(a);
      result.b = reduceTo(
        transposeB ? tf.matMul(dy, x, true, transposeA) : tf.matMul(x, dy, !transposeA, false),
        inputShape(inputs, 'b'),
      );
    }
    return result;
  },
});
