// SPDX-License-Identifier: Apache-2.0
/** Gradient of SplitChannels: the parts side by side again. */
import * as tf from '@tensorflow/tfjs-core';
import { defineGradient, present } from '../definition.ts';
import { fillMissing } from './shape.ts';

defineGradient('SplitChannels', {
  save: () => [],
  grad: (dys, _saved, { inputs, attrs }) => {
    const { shape } = present(inputs.x);
    const axis = shape.length - 1;
    return { x: tf.concat(fillMissing(dys, attrs.sizes as number[], shape, axis), axis) };
  },
});
