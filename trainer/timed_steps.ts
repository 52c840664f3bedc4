// SPDX-License-Identifier: Apache-2.0
/** The first steps of a run, taken for their time alone: nothing is written. */
import type { SequenceList } from '../datasets/index.ts';
import type { RunConfig } from '../src/config/schema.ts';
import { MambaForCausalLM } from '../src/model/causal_lm.ts';
import type { Tokenizer } from '../src/tokenizer/tokenizer.ts';
import { createCoverage } from './coverage.ts';
import { collateWindow } from './loop.ts';
import type { TrainingPlan } from './plan.ts';
import { attach, type RunIo } from './run.ts';
import { optimizerOf } from './run_optimizer.ts';
import { createStepper } from './step.ts';

export interface TimedSteps {
  config: RunConfig;
  tokenizer: Tokenizer;
  rows: SequenceList;
  plan: TrainingPlan;
  padTokenId: number;
  /** At least 1. */
  steps: number;
}

/**
 * Loads the model, takes the first steps of the plan, and frees it again.
 * @returns mean time of a position of a batch, padding or not
 */
export async function timeSteps(
  { config, tokenizer, rows, plan, padTokenId, steps }: TimedSteps,
  io: Pick<RunIo, 'hubOptions' | 'onMessage'>,
): Promise<{ secondsPerPosition: number }> {
  const { path, revision, matmul_precision: matmulPrecision } = config.model;
  const { trainer: settings } = config;
  const model = await MambaForCausalLM.fromPretrained(path, {
    ...io.hubOptions,
    revision,
    backend: settings.backend,
    matmulPrecision,
  });
  try {
    attach(model, config, tokenizer);
    model.gradientCheckpointing = settings.gradient_checkpointing;
    const parameters = model.trainableParameters();
    const optimizer = optimizerOf(settings, parameters);
    const stepper = createStepper({
      model,
      optimizer,
      coverage: createCoverage(parameters),
      seed: settings.seed,
      cudaGraphs: settings.cuda_graphs,
      loss: { labelSmoothing: settings.label_smoothing_factor, zLoss: settings.z_loss },
      neftuneNoiseAlpha: settings.neftune_noise_alpha,
    });
    try {
      let positions = 0;
      const start = performance.now();
      for (let index = 0; index < steps; index++) {
        const { firstBatch, batches: indices } = plan.window(index);
        const batches = collateWindow({ examples: rows, padTokenId }, indices);
        stepper.run({ step: index + 1, firstBatch, batches, learningRate: settings.learning_rate });
        positions += batches.reduce((sum, { batch, seqlen }) => sum + batch * seqlen, 0);
      }
      return { secondsPerPosition: (performance.now() - start) / 1000 / positions };
    } finally {
      model.setDropout(null);
      stepper.dispose();
      optimizer.dispose();
    }
  } finally {
    model.dispose();
  }
}
