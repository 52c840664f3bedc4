// SPDX-License-Identifier: Apache-2.0
/** Folds an adapter into the base parameters; answers to merge_and_unload of peft, and is right for tied embeddings. */
import type * as tf from '@tensorflow/tfjs-core';
import type { SaveCheckpointOptions } from '../src/checkpoint/save_checkpoint.ts';
import { saveCheckpoint } from '../src/checkpoint/save_checkpoint.ts';
import type { Module } from '../src/model/modules.ts';
import type { PeftModel } from './inject.ts';
import { mergedWeight } from './merged_weight.ts';

export interface MergeResult {
  /** Modules whose weights changed. */
  merged: string[];
  /**
   * Whether the head became a tensor of its own: an adapter on the embeddings changes the lookup alone, so a tied head must keep the
   * base matrix for the merged model to compute the same logits.
   */
  untied: boolean;
}

/**
 * Writes the model with the adapter folded in, W + scaling B A, as a Hugging Face folder. The model in memory stays as it is.
 *
 * @throws UserError when the folder is not empty or cannot be written
 */
export async function mergeAndSave(
  peftModel: PeftModel,
  folder: string,
  options: SaveCheckpointOptions = {},
): Promise<MergeResult> {
  const { model } = peftModel;
  const adapted = new Map(
    [...model.modules.values()].filter((module) => module.lora).map((module) => [`${module.name}.weight`, module]),
  );
  const embeddings = 'backbone.embeddings.weight';
  const untied = adapted.has(embeddings) && model.config.tieWordEmbeddings;
  const tensors = Array.from(model.parameters, ([name, variable]) => {
    const module = adapted.get(name);
    return {
      name,
      shape: variable.shape,
      data: () => (module ? valuesOf(module) : variable.dataSync<'float32'>()),
    };
  });
  if (untied) {
    const head = model.modules.get('backbone.embeddings')?.weight as tf.Variable;
    tensors.push({ name: 'lm_head.weight', shape: head.shape, data: () => head.dataSync<'float32'>() });
  }
  const config = untied ? model.config.with({ tieWordEmbeddings: false }) : model.config;
  await saveCheckpoint(folder, config, tensors, {
    ...(model.generationConfig && { generationConfig: model.generationConfig }),
    ...options,
  });
  return { merged: [...adapted.values()].map((module) => module.name), untied };
}

function valuesOf(module: Module): Float32Array {
  const merged = mergedWeight(module);
  const values = merged.dataSync<'float32'>();
  merged.dispose();
  return values;
}
