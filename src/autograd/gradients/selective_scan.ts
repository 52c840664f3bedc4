// SPDX-License-Identifier: Apache-2.0
/** Gradient of the fused SelectiveScan kernel: states are recomputed from the chunk checkpoints that the forward kept. */
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { defineGradient, present } from '../definition.ts';
import { runKernel } from '../engine.ts';

const OPERANDS = ['u', 'delta', 'A', 'B', 'C', 'D', 'z', 'deltaBias', 'seqIdx', 'h0'];

defineGradient('SelectiveScan', {
  save: ({ inputs }, outputs) => [...OPERANDS.map((name) => inputs[name] ?? null), outputs[outputs.length - 1] ?? null],
  grad: (dys, saved, { attrs, needs }) => {
    const inputs: Record<string, Tensor | null | undefined> = Object.fromEntries(
      OPERANDS.map((name, i) => [name, saved[i]]),
    );
    inputs.checkpoints = saved[OPERANDS.length];
    inputs.dout = dys[0] ?? tf.zerosLike(present(saved[0]));
    if (attrs.returnLastState) inputs.dlastState = dys[1];
    const wanted = ['A', 'D', 'deltaBias', 'h0'].filter(needs);
    const names = ['u', 'delta', 'B', 'C', ...(inputs.z ? ['z'] : []), ...wanted];
    const gradients = runKernel<Tensor[]>('SelectiveScanGrad', inputs, {
      deltaSoftplus: attrs.deltaSoftplus,
      needs: wanted,
    });
    return Object.fromEntries(names.map((name, i) => [name, gradients[i] as Tensor]));
  },
});
