// SPDX-License-Identifier: Apache-2.0
/** Gradient of the fused CausalConv1d kernel: the pre-activation is recomputed. */
import type { Tensor } from '@tensorflow/tfjs-core';
import { defineGradient, only } from '../definition.ts';
import { runKernel } from '../engine.ts';

const OPERANDS = ['x', 'weight', 'bias', 'seqIdx', 'convState'];

defineGradient('CausalConv1d', {
  save: ({ inputs }) => OPERANDS.map((name) => inputs[name] ?? null),
  grad: (dys, saved, { attrs, needs }) => {
    if (needs('convState')) throw new Error('causalConv1d has no gradient with respect to convState');
    if (dys[1]) throw new Error('causalConv1d has no gradient through lastConvState');
    const inputs = { ...Object.fromEntries(OPERANDS.map((name, i) => [name, saved[i]])), dy: only(dys) };
    const wanted = ['weight', 'bias'].filter(needs);
    const gradients = runKernel<Tensor[]>('CausalConv1dGrad', inputs, { silu: attrs.silu, needs: wanted });
    return Object.fromEntries(['x', ...wanted].map((name, i) => [name, gradients[i] as Tensor]));
  },
});
