// SPDX-License-Identifier: Apache-2.0
/** A training run around the loop: its folder, metrics, evaluations, checkpoints, and its end, good or bad. */
import { join } from 'node:path';
import { adapterNorms, type PeftModel } from '../adapters/index.ts';
import type { Example } from '../datasets/index.ts';
import type { RunConfig } from '../src/config/schema.ts';
import { messageOf } from '../src/errors.ts';
import { writeFileAtomic } from '../src/files.ts';
import { formatBytes, formatCount, formatDuration } from '../src/logging/format.ts';
import type { Progress } from '../src/logging/progress.ts';
import { writeReport } from '../src/logging/report/page.ts';
import { pruneCheckpoints, saveTrainingCheckpoint } from './checkpoints.ts';
import { type Coverage, coverageMessage, createCoverage, writeCoverage } from './coverage.ts';
import { evaluate } from './evaluate.ts';
import { InterruptedError, watchInterrupts } from './interrupt.ts';
import { type LoopOptions, runLoop, type TrainingProgress } from './loop.ts';
import { peakMemoryBytes } from './metrics.ts';
import { createAdamw, type Optimizer } from './optimizer.ts';
import { planTraining, type TrainingPlan } from './plan.ts';
import type { RunFacts } from './provenance.ts';
import { createRecorder, type EvalLoss, type Recorder } from './recorder.ts';
import { clearEarlierRun, writeRunRecord } from './run_folder.ts';
import { normsAreDue, openLogs } from './run_logs.ts';
import { createSchedule } from './schedule.ts';

/** The `trainer` section of a config, defaults filled in. */
export type TrainerSettings = RunConfig['trainer'];

export interface TrainingJob {
  peftModel: PeftModel;
  trainExamples: readonly Example[];
  /** Needed when `settings.eval_strategy` is not no. */
  evalExamples: readonly Example[] | null;
  settings: TrainerSettings;
  logging: RunConfig['logging'];
  /** A new order of the examples in each epoch. */
  shuffle: boolean;
  padTokenId: number;
  /** Folder of metrics.jsonl and tensorboard/; by default the run's. */
  loggingDir?: string;
  facts: RunFacts;
  /** Content of config.yaml; a run that no config describes has none. */
  configText?: string;
}

export interface TrainingIo {
  /** Gets one line at a time for a person to read. */
  onMessage(line: string): void;
  /** Shows the steps; while they run, messages go above it instead. */
  progress?: Progress;
  /** End cleanly on SIGINT and SIGTERM. Default false. */
  handleSignals?: boolean;
}

export interface TrainingResult {
  outputDir: string;
  /** The final adapter. */
  adapterFolder: string;
  backend: string;
  /** Parameters that train. */
  trainable: number;
  /** All parameters, the adapter's with them. */
  all: number;
  /** Optimizer steps taken. */
  steps: number;
  epochs: number;
  /** Of each step: mean over its tokens, in nats. */
  losses: number[];
  /** Of each step, before clipping. */
  gradNorms: number[];
  evalLosses: EvalLoss[];
  /** Tokens trained on, without padding. */
  tokens: number;
  /** Wall time of the run, evaluations and checkpoints with it. */
  seconds: number;
  /** Over the training steps alone. */
  tokensPerSecond: number;
  peakMemoryBytes: number;
}

/** What the parts of a run share. */
interface Run {
  job: TrainingJob;
  plan: TrainingPlan;
  optimizer: Optimizer;
  coverage: Coverage;
  recorder: Recorder;
  say(line: string): void;
  isInterrupted(): boolean;
  /** Step of the newest checkpoint; 0 for none. */
  savedStep: number;
}

/**
 * Trains the adapter into `settings.output_dir`, which `checkRunFolder` must have allowed; what an earlier run left there goes.
 *
 * @throws InterruptedError after a signal, everything saved; UserError when a loss is not finite, a tensor gets no gradient, or
 *   a file cannot be written. Checkpoints that were written before stay.
 */
export async function trainAdapter(job: TrainingJob, io: TrainingIo): Promise<TrainingResult> {
  const { settings, facts, peftModel } = job;
  const start = performance.now();
  clearEarlierRun(settings.output_dir);
  writeRunRecord(settings.output_dir, facts, 'running');
  if (job.configText !== undefined) writeFileAtomic(join(settings.output_dir, 'config.yaml'), job.configText);

  const say = (line: string) => (io.progress ? io.progress.message(line) : io.onMessage(line));
  const watch = io.handleSignals
    ? watchInterrupts((signal) => say(`${signal}: finishing this step, then saving; once more ends at once`))
    : { isInterrupted: () => false, stop: () => {} };
  const run = startRun(job, io.progress, say, watch.isInterrupted);
  try {
    peftModel.model.gradientCheckpointing = settings.gradient_checkpointing;
    for (const line of describeRun(run)) say(line);
    const end = await runLoop(loopOptions(run));
    const interrupted = watch.isInterrupted();
    if (interrupted && run.savedStep !== end.step) await save(run, end);
    await peftModel.savePretrained(adapterFolder(run));
    const result = summarize(run, end, (performance.now() - start) / 1000);
    io.progress?.finish();
    recordEnd(run, result, interrupted);
    if (interrupted) throw interruption(run, result);
    say(describeResult(result));
    return result;
  } catch (error) {
    io.progress?.finish();
    if (!(error instanceof InterruptedError)) recordFailure(run, error);
    throw error;
  } finally {
    watch.stop();
    run.optimizer.dispose();
  }
}

function startRun(
  job: TrainingJob,
  progress: Progress | undefined,
  say: Run['say'],
  isInterrupted: () => boolean,
): Run {
  const { settings } = job;
  const parameters = job.peftModel.model.trainableParameters();
  const plan = planTraining({
    examples: job.trainExamples.length,
    batchSize: settings.per_device_train_batch_size,
    accumulationSteps: settings.gradient_accumulation_steps,
    epochs: settings.num_train_epochs,
    maxSteps: settings.max_steps,
    seed: settings.seed,
    shuffle: job.shuffle,
  });
  const recorder = createRecorder({
    logs: openLogs(job),
    loggingSteps: settings.logging_steps,
    totalSteps: plan.totalSteps,
    progress,
    say,
  });
  const optimizer = createAdamw(parameters, {
    beta1: settings.adam_beta1,
    beta2: settings.adam_beta2,
    eps: settings.adam_epsilon,
    weightDecay: settings.weight_decay,
    maxGradNorm: settings.max_grad_norm,
  });
  return { job, plan, optimizer, coverage: createCoverage(parameters), recorder, say, isInterrupted, savedStep: 0 };
}

function describeRun({ job, plan }: Run): string[] {
  const { settings, peftModel, trainExamples } = job;
  const { trainable, all, percent } = peftModel.counts();
  const batch = `${settings.per_device_train_batch_size}${settings.gradient_accumulation_steps > 1 ? ` x ${settings.gradient_accumulation_steps}` : ''}`;
  return [
    `trainable parameters: ${formatCount(trainable)} of ${formatCount(all)} (${percent.toFixed(2)} %)`,
    `${formatCount(trainExamples.length)} examples, batch ${batch}: ${formatCount(plan.totalSteps)} steps, ${formatCount(plan.stepsPerEpoch)} an epoch, into ${settings.output_dir}`,
  ];
}

function loopOptions(run: Run): LoopOptions {
  const { job, plan } = run;
  const { settings } = job;
  const coveragePath = join(settings.output_dir, 'coverage.json');
  let coverageWritten = false;
  return {
    model: job.peftModel.model,
    plan,
    examples: job.trainExamples,
    padTokenId: job.padTokenId,
    seed: settings.seed,
    cudaGraphs: settings.cuda_graphs,
    schedule: createSchedule({
      type: settings.lr_scheduler_type,
      learningRate: settings.learning_rate,
      totalSteps: plan.totalSteps,
      warmupSteps: settings.warmup_steps,
      warmupRatio: settings.warmup_ratio,
    }),
    optimizer: run.optimizer,
    coverage: run.coverage,
    isInterrupted: run.isInterrupted,
    onStep: (report) => {
      run.recorder.step(report);
      if (normsAreDue(report.step, plan.totalSteps)) {
        run.recorder.adapterNorms(report, Object.fromEntries(adapterNorms(job.peftModel)));
      }
      if (coverageWritten || !run.coverage.isComplete()) return;
      writeCoverage(coveragePath, run.coverage.rows());
      coverageWritten = true;
    },
    afterStep: async (progress) => {
      if (isDue(settings.eval_strategy, settings.eval_steps, plan, progress.step)) await runEvaluation(run, progress);
      if (run.isInterrupted()) return;
      if (isDue(settings.save_strategy, settings.save_steps, plan, progress.step)) await save(run, progress);
    },
  };
}

async function runEvaluation(run: Run, progress: TrainingProgress): Promise<void> {
  const { peftModel, evalExamples, settings, padTokenId } = run.job;
  const evaluation = await evaluate(peftModel.model, evalExamples ?? [], {
    batchSize: settings.per_device_eval_batch_size,
    padTokenId,
    isInterrupted: run.isInterrupted,
  });
  if (evaluation) run.recorder.evaluation(progress, evaluation);
}

async function save(run: Run, progress: TrainingProgress): Promise<void> {
  const { job, plan, optimizer, recorder } = run;
  const { output_dir: outputDir, seed, save_total_limit: limit } = job.settings;
  await saveTrainingCheckpoint(outputDir, job.peftModel, optimizer, {
    step: progress.step,
    total_steps: plan.totalSteps,
    steps_per_epoch: plan.stepsPerEpoch,
    epoch: progress.epoch,
    micro_step: progress.microStep,
    tokens: progress.tokens,
    seed,
    train_sha256: job.facts.data.train.sha256,
    interval_losses: recorder.intervalLosses(),
  });
  run.savedStep = progress.step;
  if (limit !== null) pruneCheckpoints(outputDir, limit);
}

function recordEnd(run: Run, result: TrainingResult, interrupted: boolean): void {
  const { job, coverage, recorder } = run;
  const status = interrupted ? 'interrupted' : 'finished';
  recorder.close(status);
  const { losses, gradNorms: _, outputDir: __, adapterFolder: ___, backend: ____, ...figures } = result;
  writeRunRecord(job.settings.output_dir, job.facts, status, { result: { loss: losses.at(-1), ...figures } });
  const unchecked = coverageMessage(coverage.rows(), result.steps);
  if (unchecked !== undefined) {
    writeCoverage(join(job.settings.output_dir, 'coverage.json'), coverage.rows());
    run.say(unchecked);
  }
  writeRunReport(job.settings.output_dir);
}

/** Leaves what is known in the run folder, as far as that is possible: the error that led here is the one to report. */
function recordFailure({ job, coverage, recorder }: Run, error: unknown): void {
  const folder = job.settings.output_dir;
  const attempts = [
    () => recorder.close('failed'),
    () => writeCoverage(join(folder, 'coverage.json'), coverage.rows()),
    () => writeRunRecord(folder, job.facts, 'failed', { error: messageOf(error) }),
    () => writeRunReport(folder),
  ];
  for (const attempt of attempts) {
    try {
      attempt();
    } catch {
      // A full or vanished disk; reported by `error` if it is the cause.
    }
  }
}

/** The page about the run, in its folder. */
function writeRunReport(folder: string): void {
  writeReport([folder], join(folder, 'report.html'));
}

function summarize(run: Run, end: TrainingProgress, seconds: number): TrainingResult {
  const { job, recorder } = run;
  const { losses, gradNorms, evalLosses, stepSeconds } = recorder.history;
  const { trainable, all } = job.peftModel.counts();
  return {
    outputDir: job.settings.output_dir,
    adapterFolder: adapterFolder(run),
    backend: job.facts.backend,
    trainable,
    all,
    steps: end.step,
    epochs: end.epoch,
    losses,
    gradNorms,
    evalLosses,
    tokens: end.tokens,
    seconds,
    tokensPerSecond: end.tokens / stepSeconds,
    peakMemoryBytes: peakMemoryBytes(),
  };
}

function describeResult({
  steps,
  seconds,
  tokensPerSecond,
  peakMemoryBytes: peak,
  adapterFolder: folder,
}: TrainingResult): string {
  return `${formatCount(steps)} steps in ${formatDuration(seconds)}, ${formatCount(tokensPerSecond)} tokens/s, peak memory ${formatBytes(peak)}; the adapter is in ${folder}`;
}

function interruption({ job, plan }: Run, result: TrainingResult): InterruptedError {
  const checkpoint = join(job.settings.output_dir, `checkpoint-${result.steps}`);
  return new InterruptedError(
    `interrupted after step ${result.steps} of ${plan.totalSteps}; saved ${checkpoint} and ${result.adapterFolder}`,
  );
}

function adapterFolder({ job }: Run): string {
  return join(job.settings.output_dir, 'adapter');
}

/** Whether it is time, after `step` steps. Where a strategy acts at all, it also acts after the run's last step. */
function isDue(strategy: 'no' | 'steps' | 'epoch', every: number | null, plan: TrainingPlan, step: number): boolean {
  if (strategy === 'no') return false;
  if (strategy === 'epoch') return plan.endsEpoch(step);
  return step === plan.totalSteps || step % (every ?? plan.totalSteps) === 0;
}
