// SPDX-License-Identifier: Apache-2.0
/** The training loop: rate, micro-steps, clipped update, log, evaluate, save. */
import type { Scalar, Tensor, Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { type Batch, collate, type Example } from '../datasets/index.ts';
import { valueAndGradients } from '../src/autograd/index.ts';
import { UserError } from '../src/errors.ts';
import type { Coverage } from './coverage.ts';
import { locateNonFinite } from './diagnose.ts';
import type { TrainableModel } from './model.ts';
import type { Optimizer } from './optimizer.ts';
import type { TrainingPlan, Window } from './plan.ts';
import type { Schedule } from './schedule.ts';

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
  const parameters = model.trainableParameters();
  let progress: TrainingProgress = { step: 0, epoch: 0, microStep: 0, tokens: 0 };
  try {
    for (const window of plan.windows()) {
      const start = performance.now();
      const learningRate = schedule(window.step);
      const { loss, gradNorm, tokens } = trainStep(options, parameters, window, learningRate);
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
  }
  return progress;
}

/** Lets signals and timers in: kernels run synchronously. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

interface StepResult {
  loss: number;
  gradNorm: number;
  tokens: number;
}

function trainStep(
  options: LoopOptions,
  parameters: ReadonlyMap<string, Variable>,
  window: Window,
  learningRate: number,
): StepResult {
  const { examples, optimizer, coverage } = options;
  const batches = window.batches.map((indices) => {
    const chosen = Array.from(indices, (index) => examples[index] as Example);
    return collate(chosen, options.padTokenId);
  });
  const { loss, gradNorm, failure } = tf.tidy(() => {
    const { lossSum, gradients, lossTokens } = accumulate(options, parameters, batches, window.firstBatch);
    const loss = (lossSum.dataSync<'float32'>()[0] as number) / lossTokens;
    if (Number.isFinite(loss) && !coverage.isComplete()) coverage.observe(window.step + 1, gradients);
    const norm = optimizer.update(gradients, learningRate);
    const gradNorm = norm.dataSync<'float32'>()[0] as number;
    const healthy = Number.isFinite(loss) && Number.isFinite(gradNorm);
    return { loss, gradNorm, failure: healthy ? undefined : locateNonFinite(options.model, batches, gradients) };
  });
  if (failure !== undefined) throw nonFiniteError(window.step + 1, loss, gradNorm, learningRate, failure);
  const tokens = batches.reduce((sum, batch) => sum + countTokens(batch), 0);
  return { loss, gradNorm, tokens };
}

/** The gradient of (sum of the window's losses) / (its tokens), batch by batch. */
function accumulate(
  { model, seed }: LoopOptions,
  parameters: ReadonlyMap<string, Variable>,
  batches: readonly Batch[],
  firstBatch: number,
): { lossSum: Scalar; gradients: Map<string, Tensor>; lossTokens: number } {
  const leaves = [...parameters.values()];
  const names = [...parameters.keys()];
  const lossTokens = batches.reduce((sum, batch) => sum + batch.tokens, 0);
  const upstream = [tf.scalar(1 / lossTokens)];
  const gradients = new Map<string, Tensor>();
  let lossSum = tf.scalar(0);
  for (const [i, { inputIds, labels, batch, seqlen }] of batches.entries()) {
    model.setDropout({ seed, step: firstBatch + i });
    // Padding is at the right, where nothing before it can see it: no mask is needed.
    const forward = () => model.lossSum({ inputIds, labels, batch, seqlen }).lossSum;
    const { value, gradients: parts } = valueAndGradients(forward, leaves, { upstream });
    lossSum = addTo(lossSum, value);
    for (const [index, part] of parts.entries()) {
      const name = names[index] as string;
      const sum = gradients.get(name);
      if (part) gradients.set(name, sum ? addTo(sum, part) : part);
    }
  }
  return { lossSum, gradients, lossTokens };
}

/** sum + part, freeing both. */
function addTo<T extends Tensor>(sum: T, part: Tensor): T {
  const total = tf.add<T>(sum, part);
  tf.dispose([sum, part]);
  return total;
}

function countTokens(batch: Batch): number {
  return batch.attentionMask.reduce((sum, one) => sum + one, 0);
}

function nonFiniteError(step: number, loss: number, gradNorm: number, learningRate: number, where: string): UserError {
  return new UserError(
    `step ${step}: the loss is ${loss} and the gradient norm ${gradNorm}; both must be finite. ${where}\nNo checkpoint was written for this step; those of earlier steps are as they were. Try a lower learning rate (this step's was ${learningRate}).`,
  );
}
