// SPDX-License-Identifier: Apache-2.0
/** LoRA+: which parameters learn at which rate, and that they do. */
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { runConfigSchema } from '../../src/config/schema.ts';
import { learningRateFactor } from '../../trainer/loraplus.ts';
import { createAdamw } from '../../trainer/optimizer.ts';
import { forEachBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { expectNoLeak } from '../helpers/memory.ts';

const X = 'base_model.model.backbone.layers.0.mixer.x_proj';
const E = 'base_model.model.backbone.embeddings';

function factorsOf(trainer: object): Record<string, number> {
  const settings = runConfigSchema.shape.trainer.parse({ output_dir: 'runs/x', learning_rate: 2e-4, ...trainer });
  const factor = learningRateFactor(settings);
  const shapes: [string, number[]][] = [
    [`${X}.lora_A.weight`, [2, 3]],
    [`${X}.lora_B.weight`, [4, 2]],
    [`${X}.lora_B.bias`, [4]],
    [`${X}.lora_magnitude_vector`, [4]],
    [`${E}.lora_embedding_A`, [2, 9]],
    [`${E}.lora_embedding_B`, [3, 2]],
    [`${E}.token_adapter.trainable_tokens_delta`, [3, 2]],
    ['backbone.layers.0.mixer.A_log', [4, 2]],
    ['backbone.norm_f.weight', [3]],
  ];
  return Object.fromEntries(shapes.map(([name, shape]) => [name.split('.').slice(-2).join('.'), factor(name, shape)]));
}

it('lora_B and vectors learn at the ratio, the embeddings at a rate of their own, as in peft', () => {
  expect(factorsOf({ loraplus_lr_ratio: 16 })).toEqual({
    'lora_A.weight': 1,
    'lora_B.weight': 16,
    'lora_B.bias': 16,
    'x_proj.lora_magnitude_vector': 16,
    'embeddings.lora_embedding_A': 1e-6 / 2e-4,
    'embeddings.lora_embedding_B': 1e-6 / 2e-4,
    'token_adapter.trainable_tokens_delta': 1,
    'mixer.A_log': 1,
    'norm_f.weight': 16,
  });
  expect(factorsOf({ loraplus_lr_ratio: 4, loraplus_lr_embedding: 1e-3 })['embeddings.lora_embedding_A']).toBe(5);
  expect(new Set(Object.values(factorsOf({})))).toEqual(new Set([1]));
});

forEachBackend(() => {
  it('a step moves each parameter by its own rate', () => {
    const parameters = new Map(
      ['a', 'b', 'c'].map((name) => [name, tf.tidy(() => tf.variable(tf.tensor1d([1, -2, 3])))]),
    );
    const gradients = new Map(['a', 'b', 'c'].map((name) => [name, tf.tensor1d([0.5, -0.25, 0.125])]));
    expectNoLeak(() => {
      const optimizer = createAdamw(parameters, {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-12,
        weightDecay: 0,
        maxGradNorm: 0,
        rateFactor: (name) => ({ a: 1, b: 16, c: 0.5 })[name] as number,
      });
      optimizer.update(gradients, 1e-3).dispose();
      expect(optimizer.step).toBe(1);
      optimizer.dispose();
    });
    // Adam's first step is the rate times the gradient's sign.
    for (const [name, rate] of [
      ['a', 1e-3],
      ['b', 16e-3],
      ['c', 5e-4],
    ] as const) {
      expectClose(parameters.get(name)?.dataSync() ?? [], [1 - rate, -2 + rate, 3 - rate], { rtol: 1e-6, name });
    }
    tf.dispose([[...parameters.values()], [...gradients.values()]]);
  });
});
