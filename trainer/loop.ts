// SPDX-License-Identifier: Apache-2.0
/** The training loop: rate, micro-steps, clipped update, log, evaluate, save. */
import { type Batch, collate, type Sequence, type SequenceList } from '../datasets/index.ts';
import { canRecord } from '../src/backends/graphs.ts';
import type { LossOptions } from '../src/ops/linear_cross_entropy.ts';
import type { Coverage } from './coverage.ts';
import type { TrainableModel } from './model.ts';
import type { Optimizer } from './optimizer.ts';
import type { TrainingPlan } from './plan.ts';
import { createStepper, type Stepper } from './step.ts';

/** Where a run stands. */
export interface TrainingProgress {
  /** Optimizer steps taken. */
  step: number;
  /** Number of the next window of the plan. */
  cursor: number;
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
  /** Where a number stopped being finite, when one did; no parameter has changed then. */
  failure?: string;
}

export interface LoopOptions {
  model: TrainableModel;
  plan: TrainingPlan;
  examples: SequenceList;
  /** Written into padding, where it is never learnt from. */
  padTokenId: number;
  /** Of the dropout masks. */
  seed: number;
  /** The learning rate of an optimizer step, counted from 0. */
  schedule(step: number): number;
  optimizer: Optimizer;
  coverage: Coverage;
  /** Record steps as CUDA graphs where the backend can. */
  cudaGraphs: boolean;
  /** What the loss has beside the cross-entropy. Default nothing. */
  loss?: LossOptions;
  /** Strength of the noise on the embeddings (NEFTune). Default none. */
  neftuneNoiseAlpha?: number | null;
  /** Asked before and after each step; true ends the run there. */
  shouldStop(): boolean;
  /** After each step: logs. Returns where to go on when it is not after this step. */
  onStep(report: StepReport): Promise<TrainingProgress | undefined>;
  /** After each step: evaluates and saves, when it is time. */
  afterStep(progress: TrainingProgress): Promise<void>;
}

/** Where a run stands before its first step. */
export const BEGINNING: TrainingProgress = { step: 0, cursor: 0, epoch: 0, microStep: 0, tokens: 0 };

/**
 * Trains to the plan's end, or to the step after which `shouldStop` says so.
 *
 * @param start where a resumed run stands
 * @returns where the run stands then
 * @throws UserError when a trainable tensor gets no gradient
 */
export async function runLoop(options: LoopOptions, start = BEGINNING): Promise<TrainingProgress> {
  const { model, plan } = options;
  const stepper = createStepper(options);
  let progress = start;
  try {
    while (progress.step < plan.totalSteps && !options.shouldStop()) {
      const report = takeStep(options, stepper, progress);
      const elsewhere = await options.onStep(report);
      progress = elsewhere ?? progressOf(report);
      await nextTurn();
      if (options.shouldStop()) break;
      if (!elsewhere) await options.afterStep(progress);
    }
  } finally {
    model.setDropout(null);
    stepper.dispose();
  }
  return progress;
}

function takeStep(options: LoopOptions, stepper: Stepper, before: TrainingProgress): StepReport {
  const { plan } = options;
  const start = performance.now();
  const step = before.step + 1;
  const learningRate = options.schedule(before.step);
  const { firstBatch, batches: indices } = plan.window(before.cursor);
  const batches = collateWindow(options, indices);
  const { loss, gradNorm, failure } = stepper.run({ step, firstBatch, batches, learningRate });
  const stepTokens = batches.reduce((sum, batch) => sum + countTokens(batch), 0);
  return {
    step,
    cursor: before.cursor + 1,
    epoch: plan.epochAfter(step),
    microStep: firstBatch + batches.length,
    tokens: before.tokens + stepTokens,
    loss,
    gradNorm,
    learningRate,
    stepTokens,
    seconds: (performance.now() - start) / 1000,
    ...(failure !== undefined && { failure }),
  };
}

function progressOf({ step, cursor, epoch, microStep, tokens }: TrainingProgress): TrainingProgress {
  return { step, cursor, epoch, microStep, tokens };
}

/** Lets signals and timers in: kernels run synchronously. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Batches of a recorded step come in multiples of this length: few recordings cover a run. */
const RECORDED_LENGTHS = 64;

/** What the length of a batch is rounded up to on the current backend. */
export function lengthMultiple(): number {
  return canRecord() ? RECORDED_LENGTHS : 1;
}

/** The batches of a window of the plan. */
export function collateWindow(
  { examples, padTokenId }: Pick<LoopOptions, 'examples' | 'padTokenId'>,
  window: readonly Uint32Array[],
): Batch[] {
  const multiple = lengthMultiple();
  return window.map((indices) => {
    const chosen = Array.from(indices, (index) => examples.at(index) as Sequence);
    return collate(chosen, padTokenId, multiple);
  });
}

function countTokens(batch: Batch): number {
  return batch.attentionMask.reduce((sum, one) => sum + one, 0);
}
