// SPDX-License-Identifier: Apache-2.0
/**
 * Optimizer steps as CUDA graphs: forward, backward, clipping and AdamW of a shape are recorded once, and then launched with new
 * inputs, learning rate, step and dropout counters, which lie in device memory.
 */
import type { Scalar, Tensor, Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { Batch } from '../datasets/index.ts';
import { overwrite, type Recording, record } from '../src/backends/graphs.ts';
import type { DeviceBatch } from '../src/model/causal_lm.ts';
import {
  accumulateGradients,
  lossTokens,
  modelBatch,
  noiseFor,
  type StepContext,
  type StepInputs,
  type StepOutcome,
} from './accumulate.ts';

/** Recordings kept at a time; the one that was launched longest ago goes first. */
const MOST_RECORDINGS = 32;

export interface RecordedSteps {
  /** The step's outcome; undefined when its shape comes for the first time, and must run as it comes. */
  run(inputs: StepInputs): StepOutcome | undefined;
  dispose(): void;
}

/** What one recording reads and gives. */
interface RecordedStep {
  batches: DeviceBatch[];
  upstream: Scalar;
  dropoutSteps: Scalar[];
  recording: Recording<[lossSum: Scalar, norm: Scalar]>;
}

/** A run's recordings, by shape. */
export function createRecordedSteps(context: StepContext, parameters: ReadonlyMap<string, Variable>): RecordedSteps {
  const { optimizer } = context;
  const schedule = tf.keep(tf.tensor1d([0, 0]));
  const seen = new Set<string>();
  const steps = new Map<string, RecordedStep>();

  const stepFor = (shape: string, batches: readonly Batch[]): RecordedStep => {
    const found = steps.get(shape) ?? recordStep(context, parameters, schedule, batches);
    steps.delete(shape);
    steps.set(shape, found);
    const [oldest] = steps;
    if (oldest && steps.size > MOST_RECORDINGS) {
      steps.delete(oldest[0]);
      release(oldest[1]);
    }
    return found;
  };

  return {
    run: ({ firstBatch, batches, learningRate }) => {
      const shape = batches
        .map(({ batch, seqlen, seqIdx }) => `${batch}x${seqlen}${seqIdx ? ' packed' : ''}`)
        .join(' ');
      if (!seen.has(shape)) {
        seen.add(shape);
        return undefined;
      }
      const step = stepFor(shape, batches);
      optimizer.advance();
      overwrite(schedule, Float32Array.of(learningRate, optimizer.step));
      overwrite(step.upstream, Float32Array.of(1 / lossTokens(batches)));
      for (const [i, batch] of batches.entries()) {
        const target = step.batches[i] as DeviceBatch;
        const { inputIds, shiftedLabels } = context.model.hostBatch(batch);
        overwrite(target.inputIds, inputIds);
        overwrite(target.shiftedLabels, shiftedLabels);
        const noise = noiseFor(context, batch, firstBatch + i);
        if (noise && target.embeddingNoise) overwrite(target.embeddingNoise, noise);
        if (target.seqIdx && batch.seqIdx) overwrite(target.seqIdx, batch.seqIdx);
        overwrite(step.dropoutSteps[i] as Scalar, Int32Array.of(firstBatch + i));
      }
      step.recording.launch();
      const [lossSum, norm] = step.recording.outputs;
      const gradNorm = norm.dataSync<'float32'>()[0] as number;
      return { loss: (lossSum.dataSync<'float32'>()[0] as number) / lossTokens(batches), gradNorm };
    },
    dispose: () => {
      for (const step of steps.values()) release(step);
      schedule.dispose();
    },
  };
}

function recordStep(
  context: StepContext,
  parameters: ReadonlyMap<string, Variable>,
  schedule: Tensor,
  batches: readonly Batch[],
): RecordedStep {
  const { model, optimizer, seed } = context;
  const { deviceBatches, upstream, dropoutSteps } = tf.tidy(() => ({
    deviceBatches: batches.map((batch) => {
      const embeddingNoise = noiseFor(context, batch, 0);
      return { ...model.upload({ ...modelBatch(batch), ...(embeddingNoise && { embeddingNoise }) }) };
    }),
    upstream: tf.scalar(0),
    dropoutSteps: batches.map(() => tf.scalar(0, 'int32')),
  }));
  for (const tensor of [upstream, ...deviceBatches.flatMap(tensorsOf), ...dropoutSteps]) tf.keep(tensor);
  const recording = record((): [Scalar, Scalar] => {
    const dropouts = dropoutSteps.map((step) => ({ seed, step }));
    const { lossSum, gradients } = accumulateGradients(context, parameters, deviceBatches, upstream, dropouts);
    return [lossSum, optimizer.update(gradients, 0, schedule)];
  });
  return { batches: deviceBatches, upstream, dropoutSteps, recording };
}

function release({ batches, upstream, dropoutSteps, recording }: RecordedStep): void {
  recording.release();
  tf.dispose([upstream, dropoutSteps, batches.flatMap(tensorsOf)]);
}

function tensorsOf({ inputIds, shiftedLabels, embeddingNoise, seqIdx }: DeviceBatch): Tensor[] {
  return [inputIds, shiftedLabels, ...(embeddingNoise ? [embeddingNoise] : []), ...(seqIdx ? [seqIdx] : [])];
}
