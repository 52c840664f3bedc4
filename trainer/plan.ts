// SPDX-License-Identifier: Apache-2.0
/** Which examples each optimizer step of a run sees: a function of (examples, settings, seed) alone, so any step can be found again. */
import { batchesOf, epochOrder, lengthGroupedBatches } from '../datasets/index.ts';

export interface PlanOptions {
  /** Number of training examples, at least 1. */
  examples: number;
  /** Examples of one forward and backward pass. */
  batchSize: number;
  /** Passes that make one optimizer step; the last step of an epoch may have fewer. */
  accumulationSteps: number;
  /** Passes over the examples; may be a fraction. */
  epochs: number;
  /** Wins over `epochs` when positive. */
  maxSteps: number;
  seed: number;
  /** A new order in each epoch; otherwise the given one in all. */
  shuffle: boolean;
  /** Tokens of each example, to make batches of about one length. Default: batches as the order has them. */
  groupByLength?: Int32Array;
}

/** The batches of one optimizer step. */
export interface Window {
  /** Number of the window's first batch among all batches of the run, from 0. */
  firstBatch: number;
  /** Indices of the examples, batch after batch. */
  batches: Uint32Array[];
}

export interface TrainingPlan {
  totalSteps: number;
  stepsPerEpoch: number;
  /** Epochs that are over after `step` optimizer steps, with fraction. */
  epochAfter(step: number): number;
  /** Whether an epoch ends with the `step`-th optimizer step, counted from 1; the run's last step ends one too. */
  endsEpoch(step: number): boolean;
  /** The window with this number, from 0; epochs follow one another without end. */
  window(index: number): Window;
}

/** Plans a run. Windows do not reach across epochs, as in transformers' Trainer. */
export function planTraining(options: PlanOptions): TrainingPlan {
  const { examples, batchSize, accumulationSteps, epochs, maxSteps, seed, shuffle, groupByLength } = options;
  const batchesPerEpoch = Math.ceil(examples / batchSize);
  const stepsPerEpoch = Math.ceil(batchesPerEpoch / accumulationSteps);
  const totalSteps = maxSteps > 0 ? maxSteps : Math.ceil(epochs * stepsPerEpoch);

  let current = { epoch: -1, batches: [] as Uint32Array[] };
  const batchesOfEpoch = (epoch: number): Uint32Array[] => {
    const order = epochOrder(examples, seed, epoch, shuffle);
    return groupByLength
      ? lengthGroupedBatches(order, batchSize, groupByLength, seed, epoch)
      : batchesOf(order, batchSize);
  };
  const window = (index: number): Window => {
    const epoch = Math.floor(index / stepsPerEpoch);
    if (epoch !== current.epoch) {
      current = { epoch, batches: batchesOfEpoch(epoch) };
    }
    const first = (index % stepsPerEpoch) * accumulationSteps;
    return {
      firstBatch: epoch * batchesPerEpoch + first,
      batches: current.batches.slice(first, first + accumulationSteps),
    };
  };

  return {
    totalSteps,
    stepsPerEpoch,
    epochAfter: (step) => step / stepsPerEpoch,
    endsEpoch: (step) => step % stepsPerEpoch === 0 || step === totalSteps,
    window,
  };
}
