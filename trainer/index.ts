// SPDX-License-Identifier: Apache-2.0
/** The trainer's public door. */
export { type Resume, runFolderOf } from './claim_folder.ts';
export { type DryRun, type DryRunIo, dryRun } from './dry_run.ts';
export { type Evaluation, evaluate } from './evaluate.ts';
export type { Difference } from './evaluation/bootstrap.ts';
export type { EvalReport, JobReport, MetricResult, Variant, VariantResult } from './evaluation/report.ts';
export { type EvaluationIo, runEvaluation } from './evaluation/run.ts';
export { formatReport } from './evaluation/table.ts';
export { InterruptedError } from './interrupt.ts';
export type { EvalMetrics, Metrics, NormMetrics, SampleMetrics, TrainMetrics } from './metrics.ts';
export type { EvalLoss } from './recorder.ts';
export { exampleOptions, type RunIo, runTraining } from './run.ts';
export { SFTTrainer, type SFTTrainerOptions } from './sft_trainer.ts';
export { TrainingArguments, type TrainingArgumentsInput } from './training_arguments.ts';
export type { TrainingIo, TrainingResult } from './training_job.ts';
