// SPDX-License-Identifier: Apache-2.0
/** Gradient of the fused LoraLinear kernel: the activation x is kept only when lora_A or W trains. */
import type { Tensor } from '@tensorflow/tfjs-core';
import { defineGradient, only } from '../definition.ts';
import { runKernel } from '../engine.ts';

const SAVED = ['x', 'W', 'bias', 'loraA', 'loraB', 'xa', 'dropoutStep'];

defineGradient('LoraLinear', {
  save: ({ inputs, needs }, outputs) => [
    needs('loraA') || needs('W') ? (inputs.x ?? null) : null,
    inputs.W ?? null,
    null,
    inputs.loraA ?? null,
    inputs.loraB ?? null,
    outputs[1] ?? null,
    inputs.dropoutStep ?? null,
  ],
  grad: (dys, saved, { attrs, needs }) => {
    const inputs = { ...Object.fromEntries(SAVED.map((name, i) => [name, saved[i]])), dy: only(dys) };
    const wanted = ['x', 'loraA', 'loraB', 'W', 'bias'].filter(needs);
    const gradients = runKernel<Tensor[]>('LoraLinearGrad', inputs, { ...attrs, needs: wanted });
    return Object.fromEntries(wanted.map((name, i) => [name, gradients[i] as Tensor]));
  },
});
