// SPDX-License-Identifier: Apache-2.0
/** What a training run is given, and what it gives. */
import type { SequenceList } from '../datasets/index.ts';
import type { RunConfig } from '../src/config/schema.ts';
import type { Progress } from '../src/logging/progress.ts';
import type { Tokenizer } from '../src/tokenizer/tokenizer.ts';
import type { ClaimedFolder } from './claim_folder.ts';
import type { TrainedModel } from './full_model.ts';
import type { RunFacts } from './provenance.ts';
import type { EvalLoss } from './recorder.ts';

/** The `trainer` section of a config, defaults filled in. */
export type TrainerSettings = RunConfig['trainer'];

export interface TrainingJob {
  /** Its weights are replaced by the checkpoint's in a resumed run. */
  trained: TrainedModel;
  /** Packed rows or single examples. */
  trainExamples: SequenceList;
  /** Needed when `settings.eval_strategy` is not no. */
  evalExamples: SequenceList | null;
  settings: TrainerSettings;
  logging: RunConfig['logging'];
  /** A new order of the examples in each epoch. */
  shuffle: boolean;
  padTokenId: number;
  /** Of the samples. */
  tokenizer: Tokenizer;
  /** Folder of metrics.jsonl and tensorboard/; by default the run's. */
  loggingDir?: string;
  facts: RunFacts;
  /** Content of config.yaml; a run that no config describes has none. */
  configText?: string;
  /** `settings.output_dir`, which stays its owner's to release. */
  claimed: ClaimedFolder;
}

export interface TrainingIo {
  /** Gets one line at a time for a person to read. */
  onMessage(line: string): void;
  /** Shows the steps; while they run, messages go above it instead. */
  progress?: Progress;
  /** End cleanly on SIGINT and SIGTERM, and report a file that `ulimit -f` stops as an error. Default false. */
  handleSignals?: boolean;
}

export interface TrainingResult {
  outputDir: string;
  /** The final adapter; the final model, when that trains whole. */
  adapterFolder: string;
  backend: string;
  /** Parameters that train. */
  trainable: number;
  /** All parameters, the adapter's with them. */
  all: number;
  /** Optimizer steps taken, those before a resumption with them; so are all figures below. */
  steps: number;
  epochs: number;
  /** Of each step: mean over its tokens, in nats. */
  losses: number[];
  /** Of each step, before clipping. */
  gradNorms: number[];
  evalLosses: EvalLoss[];
  /** Step and value of the best evaluation, by metric_for_best_model; null without one. */
  best: { step: number; metric: number } | null;
  /** Steps that on_divergence: skip left out. */
  skippedSteps: number;
  /** Tokens trained on, without padding. */
  tokens: number;
  /** Wall time of the run, evaluations and checkpoints with it. */
  seconds: number;
  /** Over the training steps alone. */
  tokensPerSecond: number;
  /** Of this process. */
  peakMemoryBytes: number;
}
