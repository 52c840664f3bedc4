// SPDX-License-Identifier: Apache-2.0
/** The best evaluation of a run, and early stopping: answers to load_best_model_at_end and EarlyStoppingCallback of transformers. */
import type { Evaluation } from './evaluate.ts';
import type { TrainerSettings } from './training_job.ts';

/** Under the names of transformers' TrainerState and callback. */
export interface BestState {
  best_metric: number | null;
  /** Step of that evaluation. */
  best_global_step: number | null;
  early_stopping_patience_counter: number;
}

export interface BestModel {
  /** Name of the metric that decides. */
  readonly metricName: 'eval_loss' | 'eval_perplexity';
  /** That metric of an evaluation. */
  metricOf(evaluation: Evaluation): number;
  observe(step: number, metric: number): void;
  /** Whether early_stopping_patience evaluations in a row were no improvement. */
  isPatienceOver(): boolean;
  state(): BestState;
  restore(state: BestState): void;
}

/** Follows metric_for_best_model, greater_is_better, early_stopping_patience and early_stopping_threshold. */
export function createBestModel(settings: TrainerSettings): BestModel {
  const { early_stopping_patience: patience, early_stopping_threshold: threshold } = settings;
  const metricName = settings.metric_for_best_model ?? 'eval_loss';
  const isGreaterBetter = settings.greater_is_better ?? false;
  let state: BestState = { best_metric: null, best_global_step: null, early_stopping_patience_counter: 0 };
  return {
    metricName,
    metricOf: ({ loss, perplexity }) => (metricName === 'eval_loss' ? loss : perplexity),
    observe: (step, metric) => {
      const { best_metric: best, early_stopping_patience_counter: counter } = state;
      const reference = best ?? (isGreaterBetter ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY);
      const gain = isGreaterBetter ? metric - reference : reference - metric;
      const isBest = gain > 0;
      state = {
        best_metric: isBest ? metric : best,
        best_global_step: isBest ? step : state.best_global_step,
        early_stopping_patience_counter: gain > threshold ? 0 : counter + 1,
      };
    },
    isPatienceOver: () => patience !== null && state.early_stopping_patience_counter >= patience,
    state: () => state,
    restore: (kept) => {
      state = kept;
    },
  };
}
