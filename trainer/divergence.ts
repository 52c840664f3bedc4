// SPDX-License-Identifier: Apache-2.0
/** The watchdog of a run: what to do about a step whose numbers are not finite, or a loss that stays too high. */
import { UserError } from '../src/errors.ts';
import type { StepReport } from './loop.ts';
import type { TrainerSettings } from './training_job.ts';

/** Steps that may be skipped one after another. */
const MOST_SKIPS = 10;
/** Times a run may go back to one checkpoint. */
const MOST_ROLLBACKS = 3;

export type Verdict = 'go on' | 'skip' | 'rollback';

/** Steps in a row. */
export interface WatchdogState {
  high_losses: number;
  skips: number;
}

export interface Watchdog {
  /**
   * Judges a step.
   * @param savedStep of the checkpoint that a rollback would go to; 0 for none
   * @throws UserError when the run is to stop there
   */
  judge(report: StepReport, savedStep: number): Verdict;
  state(): WatchdogState;
  restore(state: WatchdogState): void;
}

/** Follows on_divergence, loss_watchdog_threshold and loss_watchdog_patience. */
export function createWatchdog(settings: TrainerSettings): Watchdog {
  const { on_divergence: action, loss_watchdog_threshold: threshold } = settings;
  const patience = settings.loss_watchdog_patience ?? 3;
  let state: WatchdogState = { high_losses: 0, skips: 0 };
  let rollbacks = { savedStep: 0, count: 0 };

  const rollBack = (reason: string, savedStep: number): Verdict => {
    if (savedStep !== rollbacks.savedStep) rollbacks = { savedStep, count: 0 };
    rollbacks.count += 1;
    if (savedStep === 0) throw new UserError(`${reason}\nThere is no checkpoint yet to roll back to.`);
    if (rollbacks.count > MOST_ROLLBACKS) {
      throw new UserError(
        `${reason}\nThe run has rolled back to checkpoint-${savedStep} ${MOST_ROLLBACKS} times already.`,
      );
    }
    return 'rollback';
  };

  return {
    judge: (report, savedStep) => {
      const isBroken = report.failure !== undefined;
      const isHigh = threshold !== null && report.loss > threshold;
      state = {
        skips: isBroken && action === 'skip' ? state.skips + 1 : 0,
        high_losses: isHigh ? state.high_losses + 1 : 0,
      };
      if (!isBroken && state.high_losses < patience) return 'go on';
      const reason = isBroken ? describeBroken(report) : describeHigh(report, Number(threshold), patience);
      if (action === 'rollback') return rollBack(reason, savedStep);
      if (action === 'stop') throw new UserError(reason);
      if (state.skips <= MOST_SKIPS) return 'skip';
      throw new UserError(`${reason}\nThe ${MOST_SKIPS} steps before it were skipped too.`);
    },
    state: () => state,
    restore: (kept) => {
      state = kept;
    },
  };
}

function describeBroken({ step, loss, gradNorm, learningRate, failure }: StepReport): string {
  return `step ${step}: the loss is ${loss} and the gradient norm ${gradNorm}; both must be finite. ${failure}\nNo checkpoint was written for this step; those of earlier steps are as they were. Try a lower learning rate (this step's was ${learningRate}), or on_divergence: skip or rollback.`;
}

function describeHigh({ step, loss, learningRate }: StepReport, threshold: number, patience: number): string {
  return `step ${step}: the loss is ${loss}, and has been above loss_watchdog_threshold (${threshold}) for ${patience} steps in a row. Try a lower learning rate (this step's was ${learningRate}), or on_divergence: rollback.`;
}
