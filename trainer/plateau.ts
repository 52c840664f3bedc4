// SPDX-License-Identifier: Apache-2.0
/** reduce_lr_on_plateau: answers to torch.optim.lr_scheduler.ReduceLROnPlateau. */
import type { LrSchedulerKwargs } from '../src/config/lr_schedules.ts';

/** Under torch's names. */
export interface PlateauState {
  learning_rate: number;
  /** null before the first evaluation. */
  best: number | null;
  num_bad_epochs: number;
  cooldown_counter: number;
}

export interface Plateau {
  rate(): number;
  /** Lowers the rate when more than `patience` metrics in a row were no better than the best. */
  observe(metric: number): void;
  state(): PlateauState;
  restore(state: PlateauState | null): void;
}

export function createPlateau(learningRate: number, kwargs: LrSchedulerKwargs): Plateau {
  const { mode = 'min', factor = 0.1, patience = 10, threshold = 1e-4, threshold_mode = 'rel' } = kwargs;
  const { cooldown = 0, min_lr: lowest = 0, eps = 1e-8 } = kwargs;
  let state: PlateauState = { learning_rate: learningRate, best: null, num_bad_epochs: 0, cooldown_counter: 0 };

  const isBetter = (metric: number): boolean => {
    if (state.best === null) return !Number.isNaN(metric);
    const sign = mode === 'min' ? -1 : 1;
    const margin = threshold_mode === 'rel' ? state.best * (1 + sign * threshold) : state.best + sign * threshold;
    return mode === 'min' ? metric < margin : metric > margin;
  };

  return {
    rate: () => state.learning_rate,
    observe: (metric) => {
      const next = { ...state };
      if (isBetter(metric)) Object.assign(next, { best: metric, num_bad_epochs: 0 });
      else next.num_bad_epochs += 1;
      if (next.cooldown_counter > 0) {
        next.cooldown_counter -= 1;
        next.num_bad_epochs = 0;
      }
      if (next.num_bad_epochs > patience) {
        const lower = Math.max(next.learning_rate * factor, lowest);
        if (next.learning_rate - lower > eps) next.learning_rate = lower;
        next.cooldown_counter = cooldown;
        next.num_bad_epochs = 0;
      }
      state = next;
    },
    state: () => state,
    restore: (kept) => {
      if (kept) state = kept;
    },
  };
}
