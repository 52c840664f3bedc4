// SPDX-License-Identifier: Apache-2.0
/** split_channels: the parts, their gradient, and on our devices that no data is copied. */
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { valueAndGradients } from '../../src/autograd/index.ts';
import { splitChannels } from '../../src/ops/split_channels.ts';
import { forEachBackend } from '../helpers/backends.ts';
import { runWithGradients } from '../helpers/op_run.ts';
import { operandSource, toTensor } from '../helpers/random_tensors.ts';

forEachBackend(() => {
  it.each([
    [[6], [1, 2, 3]],
    [
      [3, 7],
      [2, 5],
    ],
    [
      [2, 3, 11],
      [3, 1, 7],
    ],
    [[4, 5], [5]],
  ])('shape %j in parts %j', (shape, sizes) => {
    const x = operandSource(1).normal(shape);
    const upstream = sizes.map((size, i) => operandSource(2 + i).normal([...shape.slice(0, -1), size]));
    const run = ({ x: tensor }: Record<string, Tensor>) => splitChannels(tensor as Tensor, sizes);
    const { outputs, gradients } = runWithGradients({ x }, ['x'], run, upstream);
    const channels = shape[shape.length - 1] as number;
    let begin = 0;
    for (const [part, size] of sizes.entries()) {
      const columns = (values: ArrayLike<number>) =>
        Array.from(
          { length: (x.values.length / channels) * size },
          (_, i) => values[Math.floor(i / size) * channels + begin + (i % size)],
        );
      expect(Array.from(outputs[part] as Float32Array)).toEqual(columns(x.values));
      expect(columns(gradients.x as Float32Array)).toEqual(Array.from(upstream[part]?.values as Float32Array));
      begin += size;
    }
  });

  it('gives zeros for parts that no gradient reached', () => {
    const dx = tf.tidy(() => {
      const x = toTensor(operandSource(1).normal([2, 6]));
      const { gradients } = valueAndGradients(() => splitChannels(x, [1, 2, 3])[1] as Tensor, [x]);
      return (gradients[0] as Tensor).dataSync();
    });
    expect(Array.from(dx as unknown as Float32Array)).toEqual([0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0]);
  });

  it('refuses sizes that do not add up', () => {
    tf.tidy(() => {
      const x = tf.zeros([2, 6]);
      expect(() => splitChannels(x, [2, 3])).toThrow('splitChannels: sizes [2,3] add up to 5, x has 6 channels');
    });
  });
});
