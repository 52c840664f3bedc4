// SPDX-License-Identifier: Apache-2.0
import type { Variable } from '@tensorflow/tfjs-core';
import { learningRateFactor } from './loraplus.ts';
import { createAdamw, type Optimizer } from './optimizer.ts';
import type { TrainerSettings } from './training_job.ts';

/** The optimizer that a config's trainer section describes. */
export function optimizerOf(settings: TrainerSettings, parameters: ReadonlyMap<string, Variable>): Optimizer {
  return createAdamw(parameters, {
    beta1: settings.adam_beta1,
    beta2: settings.adam_beta2,
    eps: settings.adam_epsilon,
    weightDecay: settings.weight_decay,
    maxGradNorm: settings.max_grad_norm,
    rateFactor: learningRateFactor(settings),
  });
}
