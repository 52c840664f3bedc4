// SPDX-License-Identifier: Apache-2.0
/**
 * 30 steps of AdamW against torch: losses and gradient norms (train_curve and grad_norms of golden.json). On tfjs's cpu backend, which
 * takes half a second a step, `npm test` runs 5 of them, and `npm run test:slow` all.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { GOLDEN_FOLDER } from '../golden/golden.ts';
import { forEachBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { goldenAdapter, goldenExamples, tinyRun } from './tiny_run.ts';

/** Of the largest: 20 times what is measured, 10 times tighter than design section 9 begins with. */
const RTOL = 1e-5;

interface Curve {
  train_curve: number[];
  grad_norms: number[];
  train: { lr: number; weight_decay: number; betas: [number, number]; eps: number; max_grad_norm: number };
}

forEachBackend((backend) => {
  describe.each(['tied', 'rslora', 'dora', 'falcon_mamba'])('%s', (name) => {
    const steps = backend === 'cpu' && !process.env.MAMBATUNE_TEST_SLOW ? 5 : 30;
    it(`follows torch for ${steps} steps`, async () => {
      const { train_curve, grad_norms, train } = JSON.parse(
        readFileSync(join(GOLDEN_FOLDER, name, 'golden.json'), 'utf8'),
      ) as Curve;
      expect(train_curve).toHaveLength(30);
      const { model } = await goldenAdapter(name, backend);
      const { reports, end } = await tinyRun(model, {
        examples: goldenExamples(name),
        learningRate: train.lr,
        weightDecay: train.weight_decay,
        beta1: train.betas[0],
        beta2: train.betas[1],
        eps: train.eps,
        maxGradNorm: train.max_grad_norm,
        plan: { maxSteps: steps },
      });
      model.dispose();
      const losses = reports.map((report) => report.loss);
      const gradNorms = reports.map((report) => report.gradNorm);
      expectClose(losses, train_curve.slice(0, steps), { rtol: RTOL, name: 'losses' });
      expectClose(gradNorms, grad_norms.slice(0, steps), { rtol: RTOL, name: 'gradient norms' });
      expect(end).toEqual({ step: steps, cursor: steps, epoch: steps / 4, microStep: steps, tokens: steps * 3 * 24 });
    }, 180_000);
  });
});
