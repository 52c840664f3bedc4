// SPDX-License-Identifier: Apache-2.0
/** lora_dropout where an adapter does more than add to its module's output: DoRA, convolutions, biases. */
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import type { LoraConfigFields } from '../../adapters/index.ts';
import { valueAndGradients } from '../../src/autograd/index.ts';
import { selectBackend } from '../../src/backends/select.ts';
import { applyConv, applyLinear, type ConvModule, type LinearModule, weightMatrix } from '../../src/model/modules.ts';
import { causalConv1d } from '../../src/ops/causal_conv1d.ts';
import { dropoutMask } from '../../src/ops/dropout.ts';
import { bestBackend, forEachBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { ALL, adapted, batch, expectSlopes, gradientsOf, holdNorms, LIVELY, logitsOf, lossOf } from './tiny_adapter.ts';

const P = 0.3;
const STATE = { seed: 5, step: 3 };
const RANDOM: Partial<LoraConfigFields> = { r: 2, loraAlpha: 4, initLoraWeights: false, loraDropout: P };
const KINDS: [name: string, fields: Partial<LoraConfigFields>][] = [
  ['dora', { targetModules: ALL, useDora: true }],
  ['conv1d', { targetModules: ['conv1d', 'in_proj'] }],
  ['conv1d, dora', { targetModules: ['conv1d', 'x_proj'], useDora: true }],
  ['conv1d, lora_bias', { targetModules: ['conv1d'], loraBias: true, bias: 'all' }],
];

/** With magnitudes that are not the norms, so that DoRA's factor is not 1. */
function lively(fields: Partial<LoraConfigFields>) {
  const { model } = adapted({ ...RANDOM, ...fields }, LIVELY);
  for (const [name, variable] of model.trainableParameters())
    if (name.includes('magnitude')) tf.tidy(() => variable.assign(tf.mul(variable, 1.3)));
  return model;
}

forEachBackend((backend) => {
  it.each(KINDS)('%s: with a fixed mask each tensor has the gradient of its slope', (_, fields) => {
    const model = lively(fields);
    model.setDropout(STATE);
    holdNorms(model);
    expectSlopes(model, backend);
  });
});

describe.each(KINDS)('%s', (_, fields) => {
  beforeAll(async () => {
    await selectBackend(bestBackend);
  });

  it('the mask is that of seed and step: the same again, another for another, none outside training', () => {
    const model = lively(fields);
    const lossAt = (state: typeof STATE | null) => {
      model.setDropout(state);
      return lossOf(model);
    };
    const first = lossAt(STATE);
    expect(lossAt({ ...STATE, step: 4 })).not.toBe(first);
    expect(lossAt({ ...STATE, seed: 6 })).not.toBe(first);
    expect(lossAt(STATE)).toBe(first);
    model.setDropout(null);
    expect(logitsOf(model)).toEqual(logitsOf(lively({ ...fields, loraDropout: 0 })));
  });

  it('gradients are the same with gradient checkpointing', () => {
    const model = lively(fields);
    model.setDropout(STATE);
    const plain = gradientsOf(model);
    model.gradientCheckpointing = true;
    for (const [name, values] of gradientsOf(model)) expectClose(values, plain.get(name) ?? [], { rtol: 5e-6, name });
  });

  it('a step whose number lies on the device uploads nothing, and drops what the step of that number drops', () => {
    const model = lively(fields);
    const device = model.upload(batch());
    const [upstream, step] = [tf.scalar(1), tf.scalar(STATE.step, 'int32')];
    const run = () => {
      const { value, gradients } = valueAndGradients(
        () => model.lossSumOn(device).lossSum,
        [...model.trainableParameters().values()],
        { upstream: [upstream] },
      );
      tf.dispose(gradients as tf.Tensor[]);
      return value;
    };
    model.setDropout({ seed: STATE.seed, step });
    const value = tf.tidy(() => run().dataSync()[0]);
    const backend = tf.backend() as unknown as Record<'write' | 'move', (...given: unknown[]) => unknown>;
    const spies = (['write', 'move'] as const).map((name) => vi.spyOn(backend, name));
    tf.tidy(() => {
      run();
    });
    const calls = spies.map((spy) => spy.mock.calls.length);
    for (const spy of spies) spy.mockRestore();
    expect(calls).toEqual([0, 0]);
    model.setDropout(STATE);
    expect(value).toBe(lossOf(model));
    tf.dispose([upstream, step, ...Object.values(device)]);
  });
});

describe('the terms', () => {
  beforeAll(async () => {
    await selectBackend(bestBackend);
  });

  const inputOf = (width: number) => {
    const x = tf.tensor3d(
      Float32Array.from({ length: 8 * width }, (_, i) => Math.sin(i)),
      [1, 8, width],
    );
    const maskOf = ({ index }: { index: number }) =>
      tf.reshape(dropoutMask([8, width], P, STATE.seed, STATE.step * 2 ** 20 + index), x.shape);
    return { x, maskOf };
  };

  it('of DoRA: W x + (g - 1) W d + g scaling B A d', () => {
    const module = lively({ targetModules: ['out_proj'], useDora: true }).modules.get(
      'backbone.layers.0.mixer.out_proj',
    ) as LinearModule;
    tf.tidy(() => {
      const { x, maskOf } = inputOf(module.weight.shape[1] as number);
      const { A, B, scaling, magnitude } = module.lora as NonNullable<typeof module.lora>;
      const [W, a, b] = [module.weight, A, B] as unknown as tf.Tensor2D[] as [tf.Tensor2D, tf.Tensor2D, tf.Tensor2D];
      const merged = tf.add(W, tf.mul(scaling, tf.matMul(b, a)));
      const g = tf.div(magnitude?.value as tf.Tensor, tf.norm(merged, 2, 1));
      const flat = (tensor: tf.Tensor) => tf.reshape(tensor, [8, -1]) as tf.Tensor2D;
      const d = flat(tf.mul(x, maskOf(module)));
      const wd = tf.matMul(d, W, false, true);
      const update = tf.mul(scaling, tf.matMul(tf.matMul(d, a, false, true), b, false, true));
      const terms = [tf.matMul(flat(x), W, false, true), tf.mul(tf.sub(g, 1), wd), tf.mul(g, update)];
      const wanted = terms.reduce((sum, term) => tf.add(sum, term));
      expectClose(applyLinear(module, x, STATE).dataSync(), wanted.dataSync(), { rtol: 1e-5 });
    });
  });

  it("of a convolution: silu of the base's, and of the update's of the dropped input", () => {
    const module = lively({ targetModules: ['conv1d'] }).modules.get('backbone.layers.0.mixer.conv1d') as ConvModule;
    tf.tidy(() => {
      const { x, maskOf } = inputOf(module.weight.shape[0] as number);
      const { A, B, scaling } = module.lora as NonNullable<typeof module.lora>;
      const update: tf.Tensor2D = tf.mul(scaling, tf.matMul(B as unknown as tf.Tensor2D, A as unknown as tf.Tensor2D));
      const weight = weightMatrix(module.weight);
      const bias = module.bias as unknown as tf.Tensor1D;
      const base = causalConv1d({ x, weight, bias }, { silu: false }).y;
      const added = causalConv1d({ x: tf.mul(x, maskOf(module)), weight: update }, { silu: false }).y;
      const sum = tf.add(base, added);
      const found = applyConv(module, { x }, STATE, {}).y;
      expectClose(found.dataSync(), tf.mul(sum, tf.sigmoid(sum)).dataSync(), { rtol: 1e-5 });
    });
  });
});
