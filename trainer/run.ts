// SPDX-License-Identifier: Apache-2.0
/** A whole run from its config: model, tokenizer, data, adapter, training. */
import {
  getPeftModel,
  LoraConfig,
  type LoraConfigFields,
  PeftModel,
  readAdapterConfig,
  targetedModules,
} from '../adapters/index.ts';
import {
  type Dataset,
  loadDatasetSource,
  type TokenizedDataset,
  tokenizeDataset,
  tokenizeMessages,
} from '../datasets/index.ts';
import { formatConfig } from '../src/config/load.ts';
import type { RunConfig } from '../src/config/schema.ts';
import { ConfigError } from '../src/errors.ts';
import type { HubOptions } from '../src/hub.ts';
import { MambaForCausalLM } from '../src/model/causal_lm.ts';
import { AutoTokenizer, type Tokenizer } from '../src/tokenizer/tokenizer.ts';
import { type ClaimedFolder, claimRunFolder, type Resume } from './claim_folder.ts';
import { fullModel, type TrainedModel, trainedAdapter } from './full_model.ts';
import { collectFacts, dataFacts } from './provenance.ts';
import { padTokenId } from './sft_trainer.ts';
import { trainAdapter } from './train_adapter.ts';
import type { TrainingIo, TrainingResult } from './training_job.ts';

export interface RunIo extends TrainingIo {
  /** Go on with the run in trainer.output_dir; default false: begin a new one. */
  resume?: Resume;
  /** Cache and address of the Hub. */
  hubOptions?: Pick<HubOptions, 'cacheDir' | 'hubUrl'>;
}

/**
 * Does what a config says, from the empty folder to the written adapter. What can be wrong in the config, the folder and the
 * data is looked at before the model is loaded.
 *
 * @param config as `loadConfig` gives it
 * @throws what {@link trainAdapter} does, and UserError for a missing or damaged model, adapter or dataset
 */
export async function runTraining(config: RunConfig, io: RunIo): Promise<TrainingResult> {
  const claimed = claimRunFolder(config.trainer.output_dir, io.resume ?? false, io.onMessage);
  try {
    return await runClaimed(config, io, claimed);
  } finally {
    claimed.lock.release();
  }
}

async function runClaimed(config: RunConfig, io: RunIo, claimed: ClaimedFolder): Promise<TrainingResult> {
  const { trainer, data } = config;
  const hub = { ...io.hubOptions, onMessage: io.onMessage };
  const trainDataset = await loadDatasetSource(data.train, hub);
  const evalDataset = data.eval && (await loadDatasetSource(data.eval, hub));
  const { path, revision, matmul_precision: matmulPrecision } = config.model;
  const tokenizer = await AutoTokenizer.fromPretrained(path, { ...hub, revision });
  const model = await MambaForCausalLM.fromPretrained(path, {
    ...hub,
    revision,
    backend: trainer.backend,
    matmulPrecision,
  });
  try {
    const { vocabSize } = model.config;
    const train = loadExamples(trainDataset, tokenizer, data, vocabSize, io.onMessage);
    const evaluation = evalDataset && loadExamples(evalDataset, tokenizer, data, vocabSize, io.onMessage);
    const trained = attach(model, config, tokenizer);
    const facts = await collectFacts(model.source, config.adapter.init_from, {
      train: dataFacts(train.examples, train.report),
      eval: evaluation && dataFacts(evaluation.examples, evaluation.report),
    });
    const job = {
      trained,
      trainExamples: train.examples,
      evalExamples: evaluation?.examples ?? null,
      settings: trainer,
      logging: config.logging,
      shuffle: data.shuffle,
      padTokenId: padTokenId(tokenizer),
      tokenizer,
      facts,
      configText: formatConfig(config),
      claimed,
    };
    return await trainAdapter(job, io);
  } finally {
    model.dispose();
  }
}

/**
 * Tokenizes a dataset as a config's data section says, and tells what is to be known of it.
 * @param vocabSize rows of the model's embedding
 */
export function loadExamples(
  dataset: Dataset,
  tokenizer: Tokenizer,
  data: Pick<RunConfig['data'], 'max_length' | 'completion_only_loss' | 'append_eos'>,
  vocabSize: number,
  onMessage: (line: string) => void,
): TokenizedDataset {
  const tokenized = tokenizeDataset(dataset, tokenizer, {
    maxLength: data.max_length,
    completionOnlyLoss: data.completion_only_loss,
    appendEos: data.append_eos,
    vocabSize,
  });
  for (const line of tokenizeMessages(tokenized.report)) onMessage(line);
  return tokenized;
}

/** A fresh adapter, the one in adapter.init_from, or the whole model. */
function attach(model: MambaForCausalLM, { adapter, trainer }: RunConfig, tokenizer: Tokenizer): TrainedModel {
  const { type, init_from: folder, ...options } = adapter;
  if (type === 'full') return fullModel(model, tokenizer.files);
  const fields = Object.entries(options).map(([key, value]) => [camelCase(key), value]);
  const wanted = new LoraConfig(Object.fromEntries(fields) as Partial<LoraConfigFields>);
  if (folder === null) return trainedAdapter(getPeftModel(model, wanted, { seed: trainer.seed }));
  checkAgreement(model, wanted, folder);
  return trainedAdapter(PeftModel.fromPretrained(model, folder, { trainable: true }));
}

function camelCase(key: string): string {
  return key.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

/** @throws ConfigError listing each setting in which the stored adapter differs from the config */
function checkAgreement(model: MambaForCausalLM, wanted: LoraConfig, folder: string): void {
  const stored = readAdapterConfig(folder);
  const [own, theirs] = [wanted.toJSON(), stored.toJSON()];
  const modules = (config: LoraConfig) => targetedModules(model, config).map((module) => module.name);
  const differing = [...new Set([...Object.keys(own), ...Object.keys(theirs)])].filter((key) => {
    if (key === 'base_model_name_or_path' || key === 'init_lora_weights') return false;
    if (key === 'target_modules') return modules(wanted).join() !== modules(stored).join();
    return JSON.stringify(own[key]) !== JSON.stringify(theirs[key]);
  });
  if (differing.length === 0) return;
  const list = differing
    .map((key) => `\n  adapter.${key} is ${show(own[key])}, the adapter has ${show(theirs[key])}`)
    .join('');
  throw new ConfigError(
    `adapter.init_from: ${folder} was made with other settings:${list}\nGive this config the adapter's settings.`,
  );
}

function show(value: unknown): string {
  if (Array.isArray(value)) return `[${value.toSorted().join(', ')}]`;
  return typeof value === 'object' && value !== null ? JSON.stringify(value) : String(value);
}
