// SPDX-License-Identifier: Apache-2.0
/** metrics.jsonl: one JSON object a line, written as it happens. */
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import type { AdapterNorm } from '../adapters/index.ts';
import { DeviceBackend } from '../src/backends/device_backend.ts';
import { fileError, writeFully } from '../src/files.ts';
import type { StepReport } from './loop.ts';
import type { RunStatus } from './run_folder.ts';

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

export type Metrics = TrainMetrics | EvalMetrics | NormMetrics;

/** Where the metrics of a run go. */
export interface MetricsLog {
  write(metrics: Metrics): void;
  /** @param status how the run ended */
  close(status: RunStatus): void;
}

/**
 * Starts a metrics file, in place of what was there.
 * @throws UserError when it cannot be written
 */
export function createMetricsLog(path: string): MetricsLog {
  const attempt = <T>(action: () => T): T => {
    try {
      return action();
    } catch (error) {
      throw fileError(error, path, 'write');
    }
  };
  const descriptor = attempt(() => {
    mkdirSync(dirname(path), { recursive: true });
    return openSync(path, 'w');
  });
  return {
    write: (metrics) => attempt(() => writeFully(descriptor, Buffer.from(`${JSON.stringify(metrics)}\n`))),
    close: () => closeSync(descriptor),
  };
}

/** Collects steps into one line of metrics. */
export interface Interval {
  add(report: StepReport): void;
  isEmpty(): boolean;
  /** Losses of the steps so far. */
  losses(): readonly number[];
  /** The line of the steps so far; then starts over. Not for an empty interval. */
  take(): TrainMetrics;
}

export function createInterval(): Interval {
  let reports: StepReport[] = [];
  const sum = (pick: (report: StepReport) => number) => reports.reduce((total, report) => total + pick(report), 0);
  return {
    add: (report) => {
      reports.push(report);
    },
    isEmpty: () => reports.length === 0,
    losses: () => reports.map((report) => report.loss),
    take: () => {
      const last = reports.at(-1) as StepReport;
      const metrics = {
        step: last.step,
        epoch: last.epoch,
        loss: sum((report) => report.loss) / reports.length,
        grad_norm: last.gradNorm,
        learning_rate: last.learningRate,
        tokens: last.tokens,
        tokens_per_second: sum((report) => report.stepTokens) / sum((report) => report.seconds),
        peak_memory_bytes: peakMemoryBytes(),
      };
      reports = [];
      return metrics;
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
