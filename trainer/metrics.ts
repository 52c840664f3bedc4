// SPDX-License-Identifier: Apache-2.0
/** What a run logs, line by line, and where it goes. */
import * as tf from '@tensorflow/tfjs-core';
import type { AdapterNorm } from '../adapters/index.ts';
import { DeviceBackend } from '../src/backends/device_backend.ts';
import type { StepReport } from './loop.ts';
import type { RunStatus } from './run_folder.ts';
import type { Sample } from './samples.ts';
import type { RecorderState } from './trainer_state.ts';

/** Training over the steps since the last such line. */
export interface TrainMetrics {
  /** Optimizer steps taken. */
  step: number;
  /** Epochs that are over, with fraction. */
  epoch: number;
  /** Mean of the steps' losses, in nats. */
  loss: number;
  /** Of the last step, before clipping. */
  grad_norm: number;
  /** Of the last step. */
  learning_rate: number;
  /** Seen since the run began, without padding. */
  tokens: number;
  tokens_per_second: number;
  /** Most memory in use at once: of the native device's buffers, elsewhere the process's resident set. */
  peak_memory_bytes: number;
}

export interface EvalMetrics {
  step: number;
  epoch: number;
  /** Mean over the tokens, in nats. */
  eval_loss: number;
  /** exp(eval_loss) */
  eval_perplexity: number;
  /** Tokens that carry loss. */
  eval_tokens: number;
  eval_seconds: number;
}

/** How far the adapter has moved each module's weight, by module name. */
export interface NormMetrics {
  step: number;
  epoch: number;
  adapter_norms: Record<string, AdapterNorm>;
}

/** What the model makes of trainer.sample_prompts; step 0 is before training. */
export interface SampleMetrics {
  step: number;
  epoch: number;
  samples: Sample[];
}

export type Metrics = TrainMetrics | EvalMetrics | NormMetrics | SampleMetrics;

/** Where the metrics of a run go. */
export interface MetricsLog {
  write(metrics: Metrics): void;
  /** Makes what was written durable. @returns the place that `rewind` finds again */
  sync(): number;
  /**
   * Drops what was written after `step`, when `sync` gave `place`.
   * @returns false when what was written before it is missing
   */
  rewind(place: number, step: number): boolean;
  /** @param status how the run ended */
  close(status: RunStatus): void;
}

/** Collects steps into one line of metrics. */
export interface Interval {
  add(report: StepReport): void;
  isEmpty(): boolean;
  /** The line of the steps so far; then starts over. Not for an empty interval. */
  take(): TrainMetrics;
  state(): RecorderState['interval'];
  restore(state: RecorderState['interval']): void;
}

export function createInterval(): Interval {
  const fresh = (): RecorderState['interval'] => ({ losses: [], tokens: 0, seconds: 0, last: null });
  let sums = fresh();
  return {
    add: ({ step, epoch, microStep, tokens, loss, gradNorm, learningRate, stepTokens, seconds }) => {
      sums.losses.push(loss);
      sums.tokens += stepTokens;
      sums.seconds += seconds;
      sums.last = { step, epoch, micro_step: microStep, tokens, grad_norm: gradNorm, learning_rate: learningRate };
    },
    isEmpty: () => sums.last === null,
    take: () => {
      const { losses, last, tokens, seconds } = sums;
      if (!last) throw new Error('an interval without a step has no line');
      const { step, epoch, grad_norm, learning_rate, tokens: seen } = last;
      sums = fresh();
      return {
        step,
        epoch,
        loss: losses.reduce((total, loss) => total + loss, 0) / losses.length,
        grad_norm,
        learning_rate,
        tokens: seen,
        tokens_per_second: tokens / seconds,
        peak_memory_bytes: peakMemoryBytes(),
      };
    },
    state: () => ({ ...sums, losses: [...sums.losses] }),
    restore: (state) => {
      sums = { ...state, losses: [...state.losses] };
    },
  };
}

/** Most bytes in use at once so far: buffers and packed weights of the native device, elsewhere the process's resident set. */
export function peakMemoryBytes(): number {
  const backend = tf.backend();
  if (!(backend instanceof DeviceBackend)) return process.resourceUsage().maxRSS * 1024;
  const { peakBytes, weightCacheBytes } = backend.memoryStats();
  return peakBytes + weightCacheBytes;
}
