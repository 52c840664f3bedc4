// SPDX-License-Identifier: Apache-2.0
/** Folds an adapter into the base parameters; answers to merge_and_unload of peft, and is right for tied embeddings. */
import * as tf from '@tensorflow/tfjs-core';
import type { CheckpointTensor, SaveCheckpointOptions } from '../src/checkpoint/save_checkpoint.ts';
import { saveCheckpoint } from '../src/checkpoint/save_checkpoint.ts';
import { ConfigError } from '../src/errors.ts';
import type { MambaConfig } from '../src/model/config.ts';
import { embeddingMatrix, type Module } from '../src/model/modules.ts';
import { HEAD } from '../src/model/parameters.ts';
import { checkBiasCanMerge, mergedBias, mergedWeight } from './merged_weight.ts';
import type { PeftModel } from './peft_model.ts';
import type { TiedPolicy } from './tied_policy.ts';

export interface MergeOptions extends SaveCheckpointOptions {
  /** Default `untie`. */
  tiedEmbeddings?: TiedPolicy;
}

export interface MergeResult {
  /** Modules whose weights changed. */
  merged: string[];
  /** Whether a tied head became a tensor of its own. */
  untied: boolean;
}

/** How a merge treats the head. */
export interface HeadPlan {
  /** The merged model's config. */
  config: MambaConfig;
  /** The head gets the base's embeddings as a tensor of its own. */
  untie: boolean;
  /** The head, still tied, changes with the embeddings. */
  adaptsTiedHead: boolean;
}

const EMBEDDINGS = 'backbone.embeddings';

/**
 * Writes the model with the adapter folded in ({@link mergedWeight}) as a Hugging Face folder. The model in memory stays as it is.
 *
 * @throws UserError when the folder is not empty or cannot be written
 * @throws ConfigError when the head is tied to adapted embeddings and the policy is `refuse`
 */
export async function mergeAndSave(
  peftModel: PeftModel,
  folder: string,
  { tiedEmbeddings, ...options }: MergeOptions = {},
): Promise<MergeResult> {
  const { model } = peftModel;
  const adapted = [...model.modules.values()].filter((module) => module.lora).map((module) => module.name);
  for (const name of adapted) checkBiasCanMerge(model.modules.get(name) as Module, peftModel.config.loraBias);
  const hasOwnHead = model.config.tieWordEmbeddings && model.parameters.has(HEAD);
  const base = hasOwnHead ? model.config.with({ tieWordEmbeddings: false }) : model.config;
  const { config, untie } = planHead(base, adapted, tiedEmbeddings);
  const tensors: CheckpointTensor[] = Array.from(model.parameters, ([name, variable]) => ({
    name,
    shape: variable.shape,
    data: () => mergedValues(name, variable, model.modules),
  }));
  if (untie) {
    const head = model.modules.get(EMBEDDINGS)?.weight as tf.Variable;
    tensors.push({ name: HEAD, shape: head.shape, data: () => head.dataSync<'float32'>() });
  }
  await saveCheckpoint(folder, config, tensors, {
    ...(model.generationConfig && { generationConfig: model.generationConfig }),
    ...options,
  });
  return { merged: adapted, untied: untie || hasOwnHead };
}

/** @throws ConfigError when the head is tied to adapted embeddings and the policy is `refuse` */
export function planHead(config: MambaConfig, adapted: readonly string[], policy: TiedPolicy = 'untie'): HeadPlan {
  const isAffected = config.tieWordEmbeddings && adapted.includes(EMBEDDINGS);
  if (!isAffected || policy === 'tied_both') return { config, untie: false, adaptsTiedHead: isAffected };
  if (policy === 'untie') {
    return { config: config.with({ tieWordEmbeddings: false }), untie: true, adaptsTiedHead: false };
  }
  throw new ConfigError(
    'the adapter changes the embeddings, to which the head is tied, and the policy for that is refuse; untie keeps the adapted logits by giving the head a matrix of its own, tied_both changes the head as well.',
  );
}

/** A parameter's values with its module's adapter folded in. */
export function mergedValues(name: string, parameter: tf.Variable, modules: ReadonlyMap<string, Module>): Float32Array {
  const module = modules.get(name.replace(/\.(?:weight|bias)$/, ''));
  if (module?.kind === 'embedding' && module.tokens)
    return tf.tidy(() => embeddingMatrix(module).dataSync<'float32'>());
  const merged = module?.lora && (name.endsWith('.weight') ? mergedWeight(module) : mergedBias(module));
  if (!merged) return parameter.dataSync<'float32'>();
  const values = merged.dataSync<'float32'>();
  merged.dispose();
  return values;
}
