// SPDX-License-Identifier: Apache-2.0
/** A run in memory, and how its state goes to a checkpoint and comes back. */
import { settingsOf } from './agreement.ts';
import { type BestModel, createBestModel } from './best_model.ts';
import { type Checkpoint, optimizerFile, pruneCheckpoints, saveTrainingCheckpoint } from './checkpoints.ts';
import { type Coverage, createCoverage } from './coverage.ts';
import { createWatchdog, type Watchdog } from './divergence.ts';
import type { TrainingProgress } from './loop.ts';
import type { Optimizer } from './optimizer.ts';
import type { TrainingPlan } from './plan.ts';
import { createRecorder, type Recorder } from './recorder.ts';
import { openLogs } from './run_logs.ts';
import { optimizerOf } from './run_optimizer.ts';
import { planOfRun } from './run_plan.ts';
import { createSchedule, type Schedule } from './schedule.ts';
import type { TrainerState } from './trainer_state.ts';
import type { TrainingIo, TrainingJob } from './training_job.ts';

/** What the parts of a run share. */
export interface Run {
  job: TrainingJob;
  plan: TrainingPlan;
  optimizer: Optimizer;
  coverage: Coverage;
  recorder: Recorder;
  schedule: Schedule;
  best: BestModel;
  watchdog: Watchdog;
  say(line: string): void;
  isInterrupted(): boolean;
  /** Wall time of the run, that of the processes before this one with it. */
  seconds(): number;
  /** Step of the newest checkpoint; 0 for none. */
  savedStep: number;
  /** The last step after which everything that was due has been evaluated. */
  evaluatedStep: number;
}

/** A run before its first step, or where its checkpoint left it. The folder is ready. */
export function startRun(
  job: TrainingJob,
  { progress }: Pick<TrainingIo, 'progress'>,
  { say, isInterrupted }: Pick<Run, 'say' | 'isInterrupted'>,
): Run {
  const { settings } = job;
  const { checkpoint } = job.claimed;
  const start = performance.now();
  const earlierSeconds = checkpoint?.state.seconds ?? 0;
  const parameters = job.trained.model.trainableParameters();
  const plan = planOfRun(job);
  const recorder = createRecorder({
    logs: openLogs(job),
    loggingSteps: settings.logging_steps,
    totalSteps: plan.totalSteps,
    progress,
    say,
  });
  const optimizer = optimizerOf(settings, parameters);
  return {
    job,
    plan,
    optimizer,
    coverage: createCoverage(parameters),
    recorder,
    schedule: createSchedule({
      type: settings.lr_scheduler_type,
      learningRate: settings.learning_rate,
      totalSteps: plan.totalSteps,
      warmupSteps: settings.warmup_steps,
      warmupRatio: settings.warmup_ratio,
      kwargs: settings.lr_scheduler_kwargs ?? {},
    }),
    best: createBestModel(settings),
    watchdog: createWatchdog(settings),
    say,
    isInterrupted,
    seconds: () => earlierSeconds + (performance.now() - start) / 1000,
    savedStep: 0,
    evaluatedStep: 0,
  };
}

/** Writes a checkpoint, and deletes those beyond save_total_limit. */
export async function saveRun(run: Run, progress: TrainingProgress): Promise<void> {
  const { output_dir: outputDir, save_total_limit: limit, load_best_model_at_end: keepsBest } = run.job.settings;
  run.job.claimed.lock.assertHeld();
  await saveTrainingCheckpoint(outputDir, run.job.trained, run.optimizer, stateOf(run, progress));
  run.savedStep = progress.step;
  const kept = keepsBest ? run.best.state().best_global_step : null;
  if (limit !== null) pruneCheckpoints(outputDir, limit, kept);
}

/**
 * Puts a run where a checkpoint left it: weights, moments, schedule, coverage, metrics.
 * @throws UserError when the checkpoint's tensors are not those of the run
 */
export function restoreRun(run: Run, checkpoint: Checkpoint): TrainingProgress {
  const { step, cursor, epoch, micro_step, tokens, is_evaluated, recorder, ...state } = checkpoint.state;
  run.optimizer.restore(optimizerFile(checkpoint));
  run.coverage.restore(state.coverage);
  run.schedule.restore(state.lr_scheduler);
  run.best.restore(state.best);
  run.watchdog.restore(state.watchdog);
  run.recorder.restore(recorder, step);
  run.savedStep = step;
  run.evaluatedStep = is_evaluated ? step : 0;
  return { step, cursor, epoch, microStep: micro_step, tokens };
}

function stateOf(run: Run, { step, cursor, epoch, microStep, tokens }: TrainingProgress): TrainerState {
  const { job, plan } = run;
  return {
    version: 1,
    step,
    cursor,
    epoch,
    micro_step: microStep,
    tokens,
    total_steps: plan.totalSteps,
    steps_per_epoch: plan.stepsPerEpoch,
    is_evaluated: run.evaluatedStep === step,
    seed: job.settings.seed,
    settings: settingsOf(job),
    recorder: run.recorder.state(),
    coverage: run.coverage.state(),
    best: run.best.state(),
    lr_scheduler: run.schedule.state(),
    watchdog: run.watchdog.state(),
    seconds: run.seconds(),
  };
}
