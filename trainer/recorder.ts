// SPDX-License-Identifier: Apache-2.0
/** Keeps what a run gives: every loss for its result, lines for the logs of metrics, and what a person sees on the way. */
import { formatDuration, formatNumber } from '../src/logging/format.ts';
import type { Progress } from '../src/logging/progress.ts';
import type { Evaluation } from './evaluate.ts';
import type { StepReport, TrainingProgress } from './loop.ts';
import { createInterval, type Metrics, type MetricsLog, type NormMetrics, type SampleMetrics } from './metrics.ts';
import type { RunStatus } from './run_folder.ts';
import type { RecorderState } from './trainer_state.ts';

export interface EvalLoss {
  step: number;
  /** Epochs that are over, with fraction. */
  epoch: number;
  /** Mean over the tokens, in nats. */
  loss: number;
  perplexity: number;
}

/** What has been recorded so far. */
export interface RunHistory {
  /** Of each step. */
  losses: number[];
  /** Of each step, before clipping. */
  gradNorms: number[];
  evalLosses: EvalLoss[];
  /** Wall time of the training steps alone. */
  stepSeconds: number;
  /** Steps that were left out, because a number was not finite. */
  skippedSteps: number;
}

export interface Recorder {
  readonly history: Readonly<RunHistory>;
  step(report: StepReport): void;
  evaluation(progress: TrainingProgress, evaluation: Evaluation): void;
  adapterNorms(progress: TrainingProgress, norms: NormMetrics['adapter_norms']): void;
  samples(progress: TrainingProgress, samples: SampleMetrics['samples']): void;
  /** What a checkpoint keeps; what was written so far is durable then. */
  state(): RecorderState;
  /** Goes back to a state kept after `step`: what came after it is dropped. Says so when something before it is missing. */
  restore(state: RecorderState, step: number): void;
  /** Writes the line of an interval that was cut short, and closes the logs. */
  close(status: RunStatus): void;
}

export interface RecorderOptions {
  /** Each gets every line. */
  logs: readonly MetricsLog[];
  /** Steps from one line of metrics to the next; the last step has one too. */
  loggingSteps: number;
  totalSteps: number;
  progress: Progress | undefined;
  say(line: string): void;
}

/** What the recorder's calls throw is what the logs' throw. */
export function createRecorder(options: RecorderOptions): Recorder {
  const { logs, loggingSteps, totalSteps, progress, say } = options;
  const interval = createInterval();
  const history: RunHistory = { losses: [], gradNorms: [], evalLosses: [], stepSeconds: 0, skippedSteps: 0 };
  const startedAt = performance.now();
  const write = (metrics: Metrics) => {
    for (const log of logs) log.write(metrics);
  };

  const step = (report: StepReport) => {
    history.losses.push(report.loss);
    history.gradNorms.push(report.gradNorm);
    history.stepSeconds += report.seconds;
    if (report.failure === undefined) interval.add(report);
    else history.skippedSteps += 1;
    const state = {
      step: report.step,
      totalSteps,
      epoch: report.epoch,
      loss: report.loss,
      learningRate: report.learningRate,
      tokensPerSecond: report.tokens / history.stepSeconds,
      elapsedSeconds: (performance.now() - startedAt) / 1000,
    };
    progress?.step(state);
    const isDue = report.step % loggingSteps === 0 || report.step === totalSteps;
    if (!isDue || interval.isEmpty()) return;
    const line = interval.take();
    write(line);
    progress?.log({ ...state, loss: line.loss, tokensPerSecond: line.tokens_per_second });
  };

  const evaluation = ({ step, epoch }: TrainingProgress, { loss, perplexity, tokens, seconds }: Evaluation) => {
    history.evalLosses.push({ step, epoch, loss, perplexity });
    write({
      step,
      epoch,
      eval_loss: loss,
      eval_perplexity: perplexity,
      eval_tokens: tokens,
      eval_seconds: seconds,
    });
    say(
      `step ${step}  epoch ${epoch.toFixed(2)}  eval loss ${loss.toFixed(4)}  perplexity ${formatNumber(perplexity)}  (${formatDuration(seconds)})`,
    );
  };

  return {
    history,
    step,
    evaluation,
    adapterNorms: ({ step, epoch }, norms) => write({ step, epoch, adapter_norms: norms }),
    samples: ({ step, epoch }, samples) => {
      write({ step, epoch, samples });
      for (const { prompt, completion } of samples)
        say(`step ${step}  sample  ${JSON.stringify(`${prompt}${completion}`)}`);
    },
    state: () => ({
      log_places: logs.map((log) => log.sync()),
      interval: interval.state(),
      losses: history.losses,
      grad_norms: history.gradNorms,
      eval_losses: history.evalLosses,
      step_seconds: history.stepSeconds,
      skipped_steps: history.skippedSteps,
    }),
    restore: (state, step) => {
      interval.restore(state.interval);
      history.losses = [...state.losses];
      history.gradNorms = [...state.grad_norms];
      history.evalLosses = [...state.eval_losses];
      history.stepSeconds = state.step_seconds;
      history.skippedSteps = state.skipped_steps;
      const areWhole = logs.map((log, i) => log.rewind(state.log_places[i] ?? 0, step));
      if (areWhole.includes(false)) say('metrics.jsonl lacks lines that it had when the checkpoint was written');
    },
    close: (status) => {
      try {
        if (!interval.isEmpty()) write(interval.take());
      } finally {
        for (const log of logs) log.close(status);
      }
    },
  };
}
