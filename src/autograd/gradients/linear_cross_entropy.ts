// SPDX-License-Identifier: Apache-2.0
/** Gradient of the fused LinearCrossEntropy kernel: computed in its forward, scaled here. */
import * as tf from '@tensorflow/tfjs-core';
import { defineGradient, only, present } from '../definition.ts';

defineGradient('LinearCrossEntropy', {
  save: (_context, outputs) => outputs.slice(2),
  grad: (dys, saved, { needs }) => {
    const dlossSum = only(dys);
    const wanted = ['hidden', 'W'].filter(needs);
    return Object.fromEntries(wanted.map((name, i) => [name, tf.mul(present(saved[i]), dlossSum)]));
  },
});
