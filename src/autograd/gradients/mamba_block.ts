// SPDX-License-Identifier: Apache-2.0
/** Gradient of the fused MambaBlock kernel. */
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { defineGradient, present } from '../definition.ts';
import { runKernel } from '../engine.ts';

const LINEARS = ['inProj', 'xProj', 'dtProj', 'outProj'];
const ADAPTERS = LINEARS.flatMap((linear) => [`${linear}A`, `${linear}B`]);
const OPERANDS = [
  'norm',
  'convWeight',
  'convBias',
  'A',
  'D',
  'seqIdx',
  'dropoutStep',
  'dtProjBias',
  ...LINEARS.map((linear) => `${linear}W`),
  ...ADAPTERS,
];
/** What the forward keeps, in the order of its outputs; the last two of projections with an adapter only. */
const KEPT = ['scales', 'xz', 'dbc', 'checkpoints'];
const KEPT_OF_ADAPTED = ['dtProj', 'outProj'];

defineGradient('MambaBlock', {
  save: ({ inputs }, outputs) => {
    const first = inputs.residual ? 2 : 1;
    return [
      inputs.residual ? present(outputs[1]) : present(inputs.hidden),
      ...OPERANDS.map((name) => inputs[name] ?? null),
      ...outputs.slice(first),
    ];
  },
  grad: ([dout, dresidualOut], saved, { inputs, attrs, needs }) => {
    const adapted = KEPT_OF_ADAPTED.filter((linear) => inputs[`${linear}A`]).map((linear) => `${linear}Xa`);
    const names = ['s', ...OPERANDS, ...KEPT, ...adapted];
    const wanted = ADAPTERS.filter(needs);
    const needsInput = needs('hidden') || needs('residual');
    const gradients = runKernel<Tensor[]>(
      'MambaBlockGrad',
      {
        ...Object.fromEntries(names.map((name, i) => [name, saved[i]])),
        dout: dout ?? tf.zerosLike(present(saved[0])),
        dresidualOut,
      },
      { ...attrs, needs: wanted, needsInput },
    );
    const ds = needsInput ? gradients.shift() : undefined;
    return {
      ...(ds && { hidden: ds }),
      ...(ds && inputs.residual && { residual: ds }),
      ...Object.fromEntries(wanted.map((name, i) => [name, gradients[i] as Tensor])),
    };
  },
});
