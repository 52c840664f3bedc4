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
import { type LoadExamplesOptions, openSources, tokenizeSources } from '../datasets/index.ts';
import { readModelConfig } from '../src/checkpoint/checkpoint.ts';
import { formatConfig } from '../src/config/load.ts';
import type { RunConfig } from '../src/config/schema.ts';
import { ConfigError } from '../src/errors.ts';
import { type HubOptions, resolveModelFolder, selectConfigFile } from '../src/hub.ts';
import { MambaForCausalLM } from '../src/model/causal_lm.ts';
import { AutoTokenizer, type Tokenizer } from '../src/tokenizer/tokenizer.ts';
import { type ClaimedFolder, claimRunFolder, type Resume } from './claim_folder.ts';
import { fullModel, type TrainedModel, trainedAdapter } from './full_model.ts';
import { collectFacts, dataFacts } from './provenance.ts';
import { padTokenId } from './sft_trainer.ts';
import { trainAdapter } from './train_adapter.ts';
import type { TrainingIo, TrainingResult } from './training_job.ts';
import { trainingRows } from './training_rows.ts';

export interface RunIo extends TrainingIo {
  /** Go on with the run in trainer.output_dir; default false: begin a new one. */
  resume?: Resume;
  /** Cache and address of the Hub. */
  hubOptions?: Pick<HubOptions, 'cacheDir' | 'hubUrl'>;
  /** Called now and then while data is tokenized. */
  onTokenize?: LoadExamplesOptions['onProgress'];
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
  const trainSources = await openSources(data.train, hub);
  const evalSources = data.eval && (await openSources(data.eval, hub));
  const { path, revision, matmul_precision: matmulPrecision } = config.model;
  const tokenizer = await AutoTokenizer.fromPretrained(path, { ...hub, revision });
  const folder = await resolveModelFolder(path, { ...hub, revision, select: selectConfigFile });
  const { vocabSize } = readModelConfig(folder);
  const options = {
    ...exampleOptions(data, trainer.seed, vocabSize),
    onMessage: io.onMessage,
    onProgress: io.onTokenize,
  };
  const train = await tokenizeSources(trainSources, tokenizer, options);
  const evaluation = evalSources && (await tokenizeSources(evalSources, tokenizer, options));
  const model = await MambaForCausalLM.fromPretrained(path, {
    ...hub,
    revision,
    backend: trainer.backend,
    matmulPrecision,
  });
  try {
    const trained = attach(model, config, tokenizer);
    const facts = await collectFacts(model.source, config.adapter.init_from, {
      train: dataFacts(train),
      eval: evaluation && dataFacts(evaluation),
    });
    const job = {
      trained,
      trainExamples: trainingRows(train, data.packing, io.onMessage),
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
    train.close?.();
    evaluation?.close?.();
    model.dispose();
  }
}

/**
 * How a config says to load and tokenize its data.
 * @param vocabSize rows of the model's embedding
 */
export function exampleOptions(
  data: Omit<RunConfig['data'], 'train' | 'eval'>,
  seed: number,
  vocabSize: number,
): Omit<LoadExamplesOptions, 'onMessage'> {
  return {
    maxLength: data.max_length,
    completionOnlyLoss: data.completion_only_loss,
    assistantTurns: data.assistant_turns,
    chatTemplate: data.chat_template,
    appendEos: data.append_eos,
    onBadRecord: data.on_bad_record,
    cacheDir: data.cache_dir ?? undefined,
    threads: data.dataset_num_proc ?? undefined,
    seed,
    vocabSize,
  };
}

/** A fresh adapter, the one in adapter.init_from, or the whole model. */
export function attach(model: MambaForCausalLM, { adapter, trainer }: RunConfig, tokenizer: Tokenizer): TrainedModel {
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
