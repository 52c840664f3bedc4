// SPDX-License-Identifier: Apache-2.0
/** Gradients of tfjs-core's elementwise kernels, as far as this project's composite ops and losses use them. */
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { GradientContext } from '../definition.ts';
import { defineGradient, only, present } from '../definition.ts';

/** Sums a broadcast gradient back to the shape of the operand. */
export function reduceTo(dy: Tensor, shape: number[]): Tensor {
  const padding = dy.rank - shape.length;
  const axes = dy.shape.flatMap((size, axis) =>
    axis < padding || (shape[axis - padding] === 1 && size !== 1) ? [axis] : [],
  );
  return tf.reshape(axes.length > 0 ? tf.sum(dy, axes) : dy, shape);
}

/** A binary kernel over `a` and `b`: what it saves of its operands, and the two local gradients before broadcasting is undone. */
function defineBinary(
  kernelName: string,
  save: (context: GradientContext) => ['a' | 'b', boolean][],
  local: (dy: Tensor, a: Tensor | null, b: Tensor | null) => { a: () => Tensor; b: () => Tensor },
): void {
  defineGradient(kernelName, {
    save: (context) => {
      const wanted = new Map(save(context));
      return (['a', 'b'] as const).map((name) => (wanted.get(name) ? present(context.inputs[name]) : null));
    },
    grad: (dys, [a = null, b = null], context) => {
      const gradients = local(only(dys), a, b);
      const result: Record<string, Tensor> = {};
      for (const name of ['a', 'b'] as const) {
        if (context.needs(name)) result[name] = reduceTo(gradients[name](), present(context.inputs[name]).shape);
      }
      return result;
    },
  });
}

defineBinary(
  'Add',
  () => [],
  (dy) => ({ a: () => dy, b: () => dy }),
);
defineBinary(
  'Sub',
  () => [],
  (dy) => ({ a: () => dy, b: () => tf.neg(dy) }),
);
defineBinary(
  'Multiply',
  ({ needs }) => [
    ['a', needs('b')],
    ['b', needs('a')],
  ],
  (dy, a, b) => ({ a: () => tf.mul(dy, present(b)), b: () => tf.mul(dy, present(a)) }),
);
defineBinary(
  'RealDiv',
  ({ needs }) => [
    ['a', needs('b')],
    ['b', true],
  ],
  (dy, a, b) => ({
    a: () => tf.div(dy, present(b)),
    b: () => tf.neg(tf.div(tf.mul(dy, present(a)), tf.square(present(b)))),
  }),
);
for (const [name, compare] of [
  ['Maximum', tf.greaterEqual],
  ['Minimum', tf.lessEqual],
] as const) {
  defineBinary(
    name,
    () => [
      ['a', true],
      ['b', true],
    ],
    (dy, a, b) => {
      const takesA = () => tf.cast(compare(present(a), present(b)), 'float32');
      return { a: () => tf.mul(dy, takesA()), b: () => tf.mul(dy, tf.sub(1, takesA())) };
    },
  );
}

/** A unary kernel whose gradient reads its input. */
function defineFromInput(kernelName: string, local: (dy: Tensor, x: Tensor) => Tensor): void {
  defineGradient(kernelName, {
    save: ({ inputs }) => [present(inputs.x)],
    grad: (dys, [x]) => ({ x: local(only(dys), present(x)) }),
  });
}

/** A unary kernel whose gradient reads its output. */
function defineFromOutput(kernelName: string, local: (dy: Tensor, y: Tensor) => Tensor): void {
  defineGradient(kernelName, {
    save: (_context, outputs) => [present(outputs[0])],
    grad: (dys, [y]) => ({ x: local(only(dys), present(y)) }),
  });
}

/** A unary kernel whose gradient reads neither. */
function defineLinear(kernelName: string, local: (dy: Tensor) => Tensor): void {
  defineGradient(kernelName, { save: () => [], grad: (dys) => ({ x: local(only(dys)) }) });
}

defineLinear('Neg', (dy) => tf.neg(dy));
defineLinear('Identity', (dy) => dy);
defineLinear('Cast', (dy) => dy);
defineFromOutput('Exp', (dy, y) => tf.mul(dy, y));
defineFromInput('Log', (dy, x) => tf.div(dy, x));
defineFromOutput('Sqrt', (dy, y) => tf.div(dy, tf.mul(2, y)));
defineFromOutput('Rsqrt', (dy, y) => tf.mul(dy, tf.mul(-0.5, tf.mul(y, tf.square(y)))));
defineFromInput('Square', (dy, x) => tf.mul(dy, tf.mul(2, x)));
// The 1 is made on the device: a recorded step can upload none.
defineFromOutput('Sigmoid', (dy, y) => tf.mul(dy, tf.mul(y, tf.sub(tf.fill(y.shape, 1), y))));
defineFromOutput('Tanh', (dy, y) => tf.mul(dy, tf.sub(1, tf.square(y))));
defineFromInput('Softplus', (dy, x) => tf.mul(dy, tf.sigmoid(x)));
defineFromInput('Relu', (dy, x) => tf.mul(dy, tf.step(x)));
defineFromInput('Abs', (dy, x) => tf.mul(dy, tf.sign(x)));

defineGradient('Select', {
  save: ({ inputs }) => [present(inputs.condition)],
  grad: (dys, [condition], { needs }) => {
    const dy = only(dys);
    const zero = tf.zerosLike(dy);
    return {
      ...(needs('t') && { t: tf.where(present(condition) as tf.Tensor, dy, zero) }),
      ...(needs('e') && { e: tf.where(present(condition) as tf.Tensor, zero, dy) }),
    };
  },
});
