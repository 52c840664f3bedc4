// SPDX-License-Identifier: Apache-2.0
/** The training loop: rate, micro-steps, clipped update, log, evaluate, save. */
import { type Batch, collate, type Example } from '../datasets/index.ts';
import { canRecord } from '../src/backends/graphs.ts';
import { UserError } from '../src/errors.ts';
import type { Coverage } from './coverage.ts';
import type { TrainableModel } from './model.ts';
import type { Optimizer } from './optimizer.ts';
import type { TrainingPlan, Window } from './plan.ts';
import type { Schedule } from './schedule.ts';
import { createStepper } from './step.ts';

/** Where a run stands. */
export interface TrainingProgress {
  /** Optimizer steps taken. */
  step: number;
  /** Epochs that are over, with fraction. */
  epoch: number;
  /** Batches seen: the counter of the next dropout mask. */
  microStep: number;
  /** Tokens seen, without padding. */
  tokens: number;
}

/** What one optimizer step gave. */
export interface StepReport extends TrainingProgress {
  /** Mean over the tokens of the step, in nats. */
  loss: number;
  /** Global norm of the gradients before clipping. */
  gradNorm: number;
  learningRate: number;
  /** Tokens of this step, without padding. */
  stepTokens: number;
  /** Wall time of the step. */
  seconds: number;
}

export interface LoopOptions {
  model: TrainableModel;
  plan: TrainingPlan;
  examples: readonly Example[];
  /** Written into padding, where it is never learnt from. */
  padTokenId: number;
  /** Of the dropout masks. */
  seed: number;
  schedule: Schedule;
  optimizer: Optimizer;
  coverage: Coverage;
  /** Record steps as CUDA graphs where the backend can. */
  cudaGraphs: boolean;
  /** Asked after each step; true ends the run there. */
  isInterrupted(): boolean;
  /** After each step: logs. */
  onStep(report: StepReport): void;
  /** After each step: evaluates and saves, when it is time. */
  afterStep(progress: TrainingProgress): Promise<void>;
}

/**
 * Trains to the plan's end, or to the step after which `isInterrupted` says so.
 *
 * @returns where the run stands then
 * @throws UserError when a loss or gradient norm is not finite (names the first layer), or a trainable tensor gets no gradient
 */
export async function runLoop(options: LoopOptions): Promise<TrainingProgress> {
  const { model, plan, schedule } = options;
  const stepper = createStepper(options);
  let progress: TrainingProgress = { step: 0, epoch: 0, microStep: 0, tokens: 0 };
  try {
    for (const window of plan.windows()) {
      const start = performance.now();
      const learningRate = schedule(window.step);
      const batches = collateWindow(options, window);
      const { loss, gradNorm, failure } = stepper.run({
        step: window.step + 1,
        firstBatch: window.firstBatch,
        batches,
        learningRate,
      });
      if (failure !== undefined) throw nonFiniteError(window.step + 1, loss, gradNorm, learningRate, failure);
      const tokens = batches.reduce((sum, batch) => sum + countTokens(batch), 0);
      progress = {
        step: window.step + 1,
        epoch: plan.epochAfter(window.step + 1),
        microStep: window.firstBatch + window.batches.length,
        tokens: progress.tokens + tokens,
      };
      const seconds = (performance.now() - start) / 1000;
      options.onStep({ ...progress, loss, gradNorm, learningRate, stepTokens: tokens, seconds });
      await nextTurn();
      if (options.isInterrupted()) break;
      await options.afterStep(progress);
      if (options.isInterrupted()) break;
    }
  } finally {
    model.setDropout(null);
    stepper.dispose();
  }
  return progress;
}

/** Lets signals and timers in: kernels run synchronously. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Batches of a recorded step come in multiples of this length: few recordings cover a run. */
const RECORDED_LENGTHS = 64;

function collateWindow({ examples, padTokenId }: LoopOptions, window: Window): Batch[] {
  const multiple = canRecord() ? RECORDED_LENGTHS : 1;
  return window.batches.map((indices) => {
    const chosen = Array.from(indices, (index) => examples[index] as Example);
    return collate(chosen, padTokenId, multiple);
  });
}

function countTokens(batch: Batch): number {
  return batch.attentionMask.reduce((sum, one) => sum + one, 0);
}

function nonFiniteError(step: number, loss: number, gradNorm: number, learningRate: number, where: string): UserError {
  return new UserError(
    `step ${step}: the loss is ${loss} and the gradient norm ${gradNorm}; both must be finite. ${where}\nNo checkpoint was written for this step; those of earlier steps are as they were. Try a lower learning rate (this step's was ${learningRate}).`,
  );
}
