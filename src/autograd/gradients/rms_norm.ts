// SPDX-License-Identifier: Apache-2.0
/** Gradient of the fused RmsNorm kernel: x and residual have the same one. */
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { defineGradient, present } from '../definition.ts';
import { runKernel } from '../engine.ts';

defineGradient('RmsNorm', {
  save: ({ inputs }, outputs) => [inputs.residual ? present(outputs[1]) : present(inputs.x), inputs.weight ?? null],
  grad: ([dy, dresidualOut], [s, weight], { inputs, attrs, needs }) => {
    const upstream = dy ?? tf.zerosLike(present(s));
    const [ds, dweight] = runKernel<Tensor[]>(
      'RmsNormGrad',
      { s, weight, dy: upstream, dresidualOut },
      { eps: attrs.eps, needsWeight: needs('weight') },
    ) as [Tensor, Tensor?];
    return { x: ds, ...(inputs.residual && { residual: ds }), ...(dweight && { weight: dweight }) };
  },
});
