// SPDX-License-Identifier: Apache-2.0
/** SFTTrainer: supervised fine-tuning from a program; answers to SFTTrainer of trl. */
import { getPeftModel, type LoraConfig, PeftModel } from '../adapters/index.ts';
import { type Dataset, type TokenizedDataset, tokenizeDataset, tokenizeMessages } from '../datasets/index.ts';
import { UserError } from '../src/errors.ts';
import type { MambaForCausalLM } from '../src/model/causal_lm.ts';
import type { Tokenizer } from '../src/tokenizer/tokenizer.ts';
import { type ClaimedFolder, claimRunFolder, type Resume } from './claim_folder.ts';
import { type Evaluation, evaluate } from './evaluate.ts';
import { trainedAdapter } from './full_model.ts';
import { collectFacts, dataFacts } from './provenance.ts';
import { trainAdapter } from './train_adapter.ts';
import type { TrainingArguments } from './training_arguments.ts';
import type { TrainingIo, TrainingResult } from './training_job.ts';
import { trainingRows } from './training_rows.ts';

export interface SFTTrainerOptions {
  /** A base model together with `peftConfig`, or a model whose attached adapter is to train. */
  model: MambaForCausalLM | PeftModel;
  tokenizer: Tokenizer;
  trainDataset: Dataset;
  /** Needed to evaluate. */
  evalDataset?: Dataset;
  args: TrainingArguments;
  /** The adapter to attach to a base model. */
  peftConfig?: LoraConfig;
  /** Gets one line at a time for a person to read. Default: console.error. */
  onMessage?: (line: string) => void;
  progress?: TrainingIo['progress'];
}

export class SFTTrainer {
  readonly model: PeftModel;
  readonly tokenizer: Tokenizer;
  readonly args: TrainingArguments;
  readonly trainDataset: Dataset;
  readonly evalDataset: Dataset | undefined;
  private readonly onMessage: (line: string) => void;
  private readonly progress: TrainingIo['progress'];

  /**
   * @throws UserError when nothing would train, or `args.evalStrategy` has no dataset; ConfigError when a target module matches
   *   nothing
   */
  constructor(options: SFTTrainerOptions) {
    const { args, evalDataset } = options;
    if (args.evalStrategy !== 'no' && evalDataset === undefined) {
      throw new UserError(`SFTTrainer: args.evalStrategy is ${args.evalStrategy}, which needs evalDataset`);
    }
    this.model = trainableModel(options);
    this.tokenizer = options.tokenizer;
    this.args = args;
    this.trainDataset = options.trainDataset;
    this.evalDataset = evalDataset;
    this.onMessage = options.onMessage ?? ((line) => console.error(line));
    this.progress = options.progress;
  }

  /**
   * Trains, into `args.outputDir`: metrics, checkpoints, and the adapter.
   *
   * @param options.resumeFromCheckpoint true: from the newest whole checkpoint in `args.outputDir`; a string: from that
   *   checkpoint. Default false.
   * @throws UserError as {@link trainAdapter}, and when the folder holds something else than an earlier run
   */
  async train(options: { resumeFromCheckpoint?: Resume } = {}): Promise<TrainingResult> {
    const claimed = claimRunFolder(this.args.outputDir, options.resumeFromCheckpoint ?? false, this.onMessage);
    try {
      return await this.trainInto(claimed);
    } finally {
      claimed.lock.release();
    }
  }

  private async trainInto(claimed: ClaimedFolder): Promise<TrainingResult> {
    const { args, tokenizer } = this;
    const train = this.tokenize(this.trainDataset);
    const evaluation = this.evalDataset && this.tokenize(this.evalDataset);
    const facts = await collectFacts(this.model.model.source, null, {
      train: dataFacts(train),
      eval: evaluation ? dataFacts(evaluation) : null,
    });
    return trainAdapter(
      {
        trained: trainedAdapter(this.model),
        trainExamples: trainingRows(train, args.packing, this.onMessage),
        evalExamples: evaluation?.examples ?? null,
        settings: args.settings,
        logging: { tensorboard: args.reportTo === 'tensorboard' },
        shuffle: args.shuffle,
        padTokenId: padTokenId(tokenizer),
        tokenizer,
        ...(args.loggingDir !== null && { loggingDir: args.loggingDir }),
        facts: { ...facts, ...(args.loggingDir !== null && { logging_dir: args.loggingDir }) },
        claimed,
      },
      { onMessage: this.onMessage, progress: this.progress },
    );
  }

  /**
   * Loss and perplexity of the model as it is.
   * @param dataset default `evalDataset`
   * @throws UserError when there is none
   */
  async evaluate(dataset: Dataset | undefined = this.evalDataset): Promise<Evaluation> {
    if (dataset === undefined) throw new UserError('SFTTrainer.evaluate: there is no evalDataset; give a dataset');
    const { examples } = this.tokenize(dataset);
    const options = { batchSize: this.args.perDeviceEvalBatchSize, padTokenId: padTokenId(this.tokenizer) };
    return (await evaluate(this.model.model, examples, options)) as Evaluation;
  }

  private tokenize(dataset: Dataset): TokenizedDataset {
    const { maxLength, completionOnlyLoss, assistantTurns, chatTemplate, appendEos } = this.args;
    const { vocabSize } = this.model.model.config;
    const options = { maxLength, completionOnlyLoss, assistantTurns, chatTemplate, appendEos, vocabSize };
    const tokenized = tokenizeDataset(dataset, this.tokenizer, options);
    for (const line of tokenizeMessages(tokenized.report)) this.onMessage(line);
    return tokenized;
  }
}

/** An id for padding, which nothing learns from. */
export function padTokenId(tokenizer: Tokenizer): number {
  return tokenizer.padTokenId ?? tokenizer.eosTokenId ?? 0;
}

function trainableModel({ model, peftConfig, args }: SFTTrainerOptions): PeftModel {
  if (!(model instanceof PeftModel)) {
    if (peftConfig) return getPeftModel(model, peftConfig, { seed: args.seed });
    throw new UserError('SFTTrainer: the model has no adapter; give peftConfig: new LoraConfig({ … })');
  }
  if (peftConfig) throw new UserError('SFTTrainer: the model has an adapter already; leave peftConfig out');
  if (model.model.trainableParameters().size > 0) return model;
  throw new UserError(
    'SFTTrainer: the adapter is frozen; load it with PeftModel.fromPretrained(…, { trainable: true })',
  );
}
