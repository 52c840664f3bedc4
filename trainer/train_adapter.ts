// SPDX-License-Identifier: Apache-2.0
/** A training run around the loop: its folder, metrics, evaluations, checkpoints, and its end, good or bad. */
import { basename, join } from 'node:path';
import { adapterNorms } from '../adapters/index.ts';
import { messageOf, UserError } from '../src/errors.ts';
import { writeFileAtomic } from '../src/files.ts';
import { formatBytes, formatCount, formatDuration } from '../src/logging/format.ts';
import { writeReport } from '../src/logging/report/page.ts';
import { checkAgreement } from './agreement.ts';
import {
  type Checkpoint,
  checkpointName,
  optimizerFile,
  readCheckpoint,
  removeLaterCheckpoints,
} from './checkpoints.ts';
import { coverageMessage, writeCoverage } from './coverage.ts';
import { evaluate } from './evaluate.ts';
import { InterruptedError, watchFileSizeLimit, watchInterrupts } from './interrupt.ts';
import { BEGINNING, type LoopOptions, runLoop, type StepReport, type TrainingProgress } from './loop.ts';
import { peakMemoryBytes } from './metrics.ts';
import type { TrainingPlan } from './plan.ts';
import { clearEarlierRun, resumedFacts, writeRunRecord } from './run_folder.ts';
import { normsAreDue } from './run_logs.ts';
import { type Run, restoreRun, saveRun, startRun } from './run_state.ts';
import { generateSamples } from './samples.ts';
import type { TrainingIo, TrainingJob, TrainingResult } from './training_job.ts';

/**
 * Trains the adapter into `settings.output_dir`, from the claimed folder's checkpoint on; without one, what an earlier run left
 * there goes.
 *
 * @throws InterruptedError after a signal, everything saved; ConfigError when the checkpoint is of a run with other settings;
 *   UserError when a loss is not finite, a tensor gets no gradient, or a file cannot be written. Checkpoints that were written
 *   before stay.
 */
export async function trainAdapter(given: TrainingJob, io: TrainingIo): Promise<TrainingResult> {
  const say = (line: string) => (io.progress ? io.progress.message(line) : io.onMessage(line));
  const job = prepareFolder(given, say);
  const watch = io.handleSignals
    ? watchInterrupts((signal) => say(`${signal}: finishing this step, then saving; once more ends at once`))
    : { isInterrupted: () => false, stop: () => {} };
  const sizeLimit = io.handleSignals ? watchFileSizeLimit() : { stop: () => {} };
  const run = startRun(job, io, { say, isInterrupted: watch.isInterrupted });
  try {
    job.trained.model.gradientCheckpointing = job.settings.gradient_checkpointing;
    for (const line of describeRun(run)) say(line);
    const end = await runLoop(loopOptions(run), await begin(run));
    const interrupted = watch.isInterrupted();
    if (interrupted && run.savedStep !== end.step) await saveRun(run, end);
    if (!interrupted && job.settings.load_best_model_at_end) loadBest(run);
    job.claimed.lock.assertHeld();
    await job.trained.savePretrained(adapterFolder(run));
    const result = summarize(run, end);
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
    sizeLimit.stop();
    run.optimizer.dispose();
  }
}

/** Leaves in the folder what this run goes on from and nothing that comes later, its record, and its config. */
function prepareFolder(job: TrainingJob, say: (line: string) => void): TrainingJob {
  const folder = job.settings.output_dir;
  const { checkpoint } = job.claimed;
  let { facts } = job;
  if (checkpoint) {
    for (const line of checkAgreement(checkpoint, job)) say(line);
    const later = removeLaterCheckpoints(folder, checkpoint.state.step);
    if (later.length > 0) say(`removed what comes after it: ${later.join(', ')}`);
    facts = resumedFacts(folder, facts, checkpoint.state.step);
  } else clearEarlierRun(folder);
  writeRunRecord(folder, facts, 'running');
  if (job.configText !== undefined) writeFileAtomic(join(folder, 'config.yaml'), job.configText);
  return { ...job, facts };
}

/** Where the run begins; what was due after a resumed run's last step, and not done, is done first. */
async function begin(run: Run): Promise<TrainingProgress> {
  const { checkpoint } = run.job.claimed;
  if (checkpoint) return takeUp(run, checkpoint);
  await writeSamples(run, BEGINNING);
  return BEGINNING;
}

async function takeUp(run: Run, checkpoint: Checkpoint): Promise<TrainingProgress> {
  const progress = restoreRun(run, checkpoint);
  if (run.evaluatedStep !== progress.step) await afterStep(run, progress);
  return progress;
}

function describeRun({ job, plan }: Run): string[] {
  const { settings, trained, trainExamples } = job;
  const { trainable, all, percent } = trained.counts();
  const batch = `${settings.per_device_train_batch_size}${settings.gradient_accumulation_steps > 1 ? ` x ${settings.gradient_accumulation_steps}` : ''}`;
  return [
    `trainable parameters: ${formatCount(trainable)} of ${formatCount(all)} (${percent.toFixed(2)} %)`,
    `${formatCount(trainExamples.length)} ${trainExamples.at(0)?.seqIdx ? 'packed rows' : 'examples'}, batch ${batch}: ${formatCount(plan.totalSteps)} steps, ${formatCount(plan.stepsPerEpoch)} an epoch, into ${settings.output_dir}`,
  ];
}

function loopOptions(run: Run): LoopOptions {
  const { job, plan } = run;
  const { settings } = job;
  const coveragePath = join(settings.output_dir, 'coverage.json');
  let coverageWritten = false;
  return {
    model: job.trained.model,
    plan,
    examples: job.trainExamples,
    padTokenId: job.padTokenId,
    seed: settings.seed,
    cudaGraphs: settings.cuda_graphs,
    loss: { labelSmoothing: settings.label_smoothing_factor, zLoss: settings.z_loss },
    neftuneNoiseAlpha: settings.neftune_noise_alpha,
    schedule: run.schedule.learningRate,
    optimizer: run.optimizer,
    coverage: run.coverage,
    shouldStop: () => run.isInterrupted() || run.best.isPatienceOver(),
    onStep: async (report) => {
      job.claimed.lock.assertHeld();
      const verdict = run.watchdog.judge(report, run.savedStep);
      if (verdict === 'rollback') return rollBack(run, report);
      if (verdict === 'skip') run.say(`step ${report.step} is left out, its gradient is not finite: ${report.failure}`);
      run.recorder.step(report);
      if (job.trained.outputName === 'adapter' && normsAreDue(report.step, plan.totalSteps)) {
        run.recorder.adapterNorms(report, Object.fromEntries(adapterNorms(job.trained)));
      }
      if (coverageWritten || !run.coverage.isComplete()) return undefined;
      writeCoverage(coveragePath, run.coverage.rows());
      coverageWritten = true;
      return undefined;
    },
    afterStep: (progress) => afterStep(run, progress),
  };
}

/** Back to the last checkpoint, and past the data that led away from it (as Chowdhery et al. 2022, PaLM, section 5.1). */
async function rollBack(run: Run, { step, cursor, loss, gradNorm }: StepReport): Promise<TrainingProgress> {
  const checkpoint = checkpointOf(run, run.savedStep);
  run.say(
    `step ${step}: loss ${loss}, gradient norm ${gradNorm}; rolling back to ${checkpoint.folder}, and on with the data after this step's`,
  );
  return { ...(await takeUp(run, checkpoint)), cursor };
}

function loadBest(run: Run): void {
  const { best_global_step: step, best_metric: metric } = run.best.state();
  if (step === null) {
    run.say('no evaluation gave a number, so there is no best model; the last one is kept');
    return;
  }
  const checkpoint = checkpointOf(run, step);
  run.optimizer.restoreParameters(optimizerFile(checkpoint));
  run.say(`the best model is that of ${checkpoint.folder}, with ${run.best.metricName} ${metric}`);
}

function checkpointOf(run: Run, step: number): Checkpoint {
  const folder = join(run.job.settings.output_dir, checkpointName(step));
  const found = readCheckpoint(folder);
  if ('fault' in found) throw new UserError(`${folder} is needed and no longer whole: ${found.fault}.`);
  return found;
}

async function afterStep(run: Run, progress: TrainingProgress): Promise<void> {
  const { job, plan } = run;
  const { settings } = job;
  if (isDue(settings.eval_strategy, settings.eval_steps, plan, progress.step)) await runEvaluation(run, progress);
  if (run.isInterrupted()) return;
  run.evaluatedStep = progress.step;
  if (isDue(settings.save_strategy, settings.save_steps, plan, progress.step)) await saveRun(run, progress);
}

async function runEvaluation(run: Run, progress: TrainingProgress): Promise<void> {
  const { trained, evalExamples, settings, padTokenId } = run.job;
  const evaluation = await evaluate(trained.model, evalExamples ?? [], {
    batchSize: settings.per_device_eval_batch_size,
    padTokenId,
    isInterrupted: run.isInterrupted,
  });
  if (!evaluation) return;
  run.recorder.evaluation(progress, evaluation);
  await writeSamples(run, progress);
  const { best, schedule } = run;
  const metric = best.metricOf(evaluation);
  schedule.observe(metric);
  best.observe(progress.step, metric);
  if (!best.isPatienceOver()) return;
  const { best_metric, best_global_step, early_stopping_patience_counter: count } = best.state();
  run.say(
    `early stopping after step ${progress.step}: ${count} evaluations without improvement of ${best.metricName}, whose best was ${best_metric} at step ${best_global_step}`,
  );
}

async function writeSamples(run: Run, progress: TrainingProgress): Promise<void> {
  const { trained, tokenizer, settings } = run.job;
  if (settings.sample_prompts === null) return;
  const samples = await generateSamples(trained.model, tokenizer, settings);
  run.recorder.samples(progress, samples);
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
  if (!job.claimed.lock.isHeld()) return;
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

function summarize(run: Run, end: TrainingProgress): TrainingResult {
  const { job, recorder } = run;
  const { losses, gradNorms, evalLosses, stepSeconds, skippedSteps } = recorder.history;
  const { best_global_step: bestStep, best_metric: bestMetric } = run.best.state();
  const { trainable, all } = job.trained.counts();
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
    best: bestStep === null || bestMetric === null ? null : { step: bestStep, metric: bestMetric },
    skippedSteps,
    tokens: end.tokens,
    seconds: run.seconds(),
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
  const what = basename(folder);
  return `${formatCount(steps)} steps in ${formatDuration(seconds)}, ${formatCount(tokensPerSecond)} tokens/s, peak memory ${formatBytes(peak)}; the ${what} is in ${folder}`;
}

function interruption({ job, plan }: Run, result: TrainingResult): InterruptedError {
  const checkpoint = join(job.settings.output_dir, checkpointName(result.steps));
  return new InterruptedError(
    `interrupted after step ${result.steps} of ${plan.totalSteps}; saved ${checkpoint} and ${result.adapterFolder}`,
  );
}

function adapterFolder({ job }: Run): string {
  return join(job.settings.output_dir, job.trained.outputName);
}

/** Whether it is time, after `step` steps. Where a strategy acts at all, it also acts after the run's last step. */
function isDue(strategy: 'no' | 'steps' | 'epoch', every: number | null, plan: TrainingPlan, step: number): boolean {
  if (strategy === 'no') return false;
  if (strategy === 'epoch') return plan.endsEpoch(step);
  return step === plan.totalSteps || step % (every ?? plan.totalSteps) === 0;
}
