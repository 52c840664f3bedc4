// SPDX-License-Identifier: Apache-2.0
/** DoRA: where it begins, its gradients on every module, what is kept of its norms, merging. */
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import type { PeftModel } from '../../adapters/index.ts';
import { selectBackend } from '../../src/backends/select.ts';
import { bestBackend, forEachBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { expectNoLeak } from '../helpers/memory.ts';
import {
  ALL,
  adapted,
  expectMerges,
  expectSlopes,
  gradientsOf,
  holdNorms,
  LIVELY,
  logitsOf,
  newModel,
} from './tiny_adapter.ts';

/** Magnitudes that are not the norms. */
function stretch({ model }: PeftModel): void {
  for (const { lora } of model.modules.values()) {
    const value = lora?.magnitude?.value;
    if (value) tf.tidy(() => value.assign(tf.mul(value, tf.tensor1d(factorsOf(value.size)))));
  }
}

function factorsOf(size: number): number[] {
  return Array.from({ length: size }, (_, i) => 0.5 + i / size);
}

forEachBackend((backend) => {
  it('begins as the base model, to the bit, and as LoRA does with random factors', () => {
    const base = logitsOf(newModel());
    expect(logitsOf(adapted({ targetModules: ALL, useDora: true }).model)).toEqual(base);
    const random = { targetModules: ALL, initLoraWeights: false, loraAlpha: 2 };
    expectClose(logitsOf(adapted({ ...random, useDora: true }).model), logitsOf(adapted(random).model), { rtol: 5e-6 });
  });

  it.each(ALL)('gradients on %s against finite differences, the norm held constant', (target) => {
    const fields = { r: 2, loraAlpha: 4, targetModules: [target], initLoraWeights: false, useDora: true };
    const peft = adapted(fields, LIVELY);
    stretch(peft);
    holdNorms(peft.model);
    expect([...peft.model.trainableParameters().keys()].at(-1)).toMatch(/\.lora_magnitude_vector$/);
    expectSlopes(peft.model, backend);
  });

  it('gradients are the same with gradient checkpointing', () => {
    const { model } = adapted({ targetModules: ALL, useDora: true, initLoraWeights: false });
    const plain = gradientsOf(model);
    model.gradientCheckpointing = true;
    for (const [name, values] of gradientsOf(model)) expectClose(values, plain.get(name) ?? [], { rtol: 5e-6, name });
  });

  it('keeps the norm of the merged weight while nothing trains, and follows A and B while they do', () => {
    const peft = adapted({ targetModules: ['x_proj'], useDora: true, initLoraWeights: false });
    const lora = peft.model.modules.get('backbone.layers.0.mixer.x_proj')?.lora;
    if (!lora?.magnitude) throw new Error('no DoRA');
    const before = logitsOf(peft.model);
    expect(lora.magnitude.norm).toBeNull();
    tf.tidy(() => lora.B.assign(tf.mul(lora.B, 3)));
    expect(logitsOf(peft.model)).not.toEqual(before);
    const changed = logitsOf(peft.model);
    lora.A.trainable = false;
    lora.B.trainable = false;
    expect(logitsOf(peft.model)).toEqual(changed);
    expect(lora.magnitude.norm).not.toBeNull();
    expectNoLeak(() => expect(logitsOf(peft.model)).toEqual(changed));
  });
});

describe('merging', () => {
  beforeAll(async () => {
    await selectBackend(bestBackend);
  });

  it.each(ALL)('%s: the merged model gives the same logits', async (target) => {
    const peft = adapted({ targetModules: [target], useDora: true, initLoraWeights: false, loraAlpha: 3 });
    stretch(peft);
    await expectMerges(peft);
  });
});
