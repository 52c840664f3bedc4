// SPDX-License-Identifier: Apache-2.0
/** Gradient of the fused LoraEmbedding kernel. */
import type { Tensor } from '@tensorflow/tfjs-core';
import { defineGradient, only } from '../definition.ts';
import { runKernel } from '../engine.ts';

const OPERANDS = ['ids', 'W', 'loraA', 'loraB'];

defineGradient('LoraEmbedding', {
  save: ({ inputs }) => OPERANDS.map((name) => inputs[name] ?? null),
  grad: (dys, saved, { attrs, needs }) => {
    const inputs = { ...Object.fromEntries(OPERANDS.map((name, i) => [name, saved[i]])), dout: only(dys) };
    const wanted = ['loraA', 'loraB', 'W'].filter(needs);
    const gradients = runKernel<Tensor[]>('LoraEmbeddingGrad', inputs, { ...attrs, needs: wanted });
    return Object.fromEntries(wanted.map((name, i) => [name, gradients[i] as Tensor]));
  },
});
