// SPDX-License-Identifier: Apache-2.0
/** One optimizer step: the gradient of (sum of its losses) / (its tokens), clipping, AdamW; run as it comes, or recorded. */
import type { Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { canRecord } from '../src/backends/graphs.ts';
import {
  accumulateGradients,
  lossTokens,
  modelBatch,
  noiseFor,
  type StepContext,
  type StepInputs,
  type StepOutcome,
} from './accumulate.ts';
import { locateNonFinite } from './diagnose.ts';
import { explainOutOfMemory } from './out_of_memory.ts';
import { createRecordedSteps } from './recorded_step.ts';

export interface Stepper {
  /** @throws UserError saying what holds the device's memory when a step does not fit into it; the run can go on with smaller ones */
  run(inputs: StepInputs): StepOutcome;
  dispose(): void;
}

/** Steps for a run: recorded ones once coverage is known and a shape comes again, else run as they come. */
export function createStepper(context: StepContext): Stepper {
  const parameters = context.model.trainableParameters();
  const recorded = context.cudaGraphs && canRecord() ? createRecordedSteps(context, parameters) : undefined;
  const run = (inputs: StepInputs): StepOutcome => {
    const launched = context.coverage.isComplete() ? recorded?.run(inputs) : undefined;
    const outcome = launched ?? runStep(context, parameters, inputs);
    if (Number.isFinite(outcome.loss) && Number.isFinite(outcome.gradNorm)) return outcome;
    context.optimizer.retract();
    return launched ? { ...launched, failure: explain(context, parameters, inputs) } : outcome;
  };
  return {
    run: (inputs) => {
      try {
        return run(inputs);
      } catch (error) {
        throw explainOutOfMemory(error, context.model, inputs.batches);
      }
    },
    dispose: () => recorded?.dispose(),
  };
}

function runStep(context: StepContext, parameters: ReadonlyMap<string, Variable>, inputs: StepInputs): StepOutcome {
  const { model, optimizer, coverage } = context;
  const { step, batches, learningRate } = inputs;
  return tf.tidy(() => {
    const { lossSum, gradients } = gradientsOf(context, parameters, inputs);
    const loss = (lossSum.dataSync<'float32'>()[0] as number) / lossTokens(batches);
    if (Number.isFinite(loss) && !coverage.isComplete()) coverage.observe(step, gradients);
    const norm = optimizer.update(gradients, learningRate);
    const gradNorm = norm.dataSync<'float32'>()[0] as number;
    const isHealthy = Number.isFinite(loss) && Number.isFinite(gradNorm);
    return { loss, gradNorm, ...(!isHealthy && { failure: locateNonFinite(model, batches, gradients) }) };
  });
}

/** Runs a recorded step's forward and backward again, to say where it failed. */
function explain(context: StepContext, parameters: ReadonlyMap<string, Variable>, inputs: StepInputs): string {
  return tf.tidy(() =>
    locateNonFinite(context.model, inputs.batches, gradientsOf(context, parameters, inputs).gradients),
  );
}

function gradientsOf(
  context: StepContext,
  parameters: ReadonlyMap<string, Variable>,
  { batches, firstBatch }: StepInputs,
) {
  const { model, seed } = context;
  return accumulateGradients(
    context,
    parameters,
    batches.map((batch, i) => {
      const embeddingNoise = noiseFor(context, batch, firstBatch + i);
      return model.upload({ ...modelBatch(batch), ...(embeddingNoise && { embeddingNoise }) });
    }),
    tf.scalar(1 / lossTokens(batches)),
    batches.map((_, i) => ({ seed, step: firstBatch + i })),
  );
}
