// SPDX-License-Identifier: Apache-2.0
/** Attaches LoRA to a model's modules; answers to inject_adapter of peft. */
import type { Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { ConfigError } from '../src/errors.ts';
import type { MambaForCausalLM } from '../src/model/causal_lm.ts';
import { adapterKeys, type LoraWeights, type Module } from '../src/model/modules.ts';
import { tokenRows } from '../src/model/token_rows.ts';
import { checkInitialization, createDraw, initializeFromWeights, removePrincipalParts } from './initialize.ts';
import type { LoraConfig } from './lora_config.ts';
import { readAdapter } from './peft_files.ts';
import { type SavedParameter, savedParameters } from './saved_parameters.ts';
import { adapterShapes, checkNamesChoose, type ModuleShape, targetedModules } from './targets.ts';
import { type TrainedTokens, trainedTokens } from './trained_tokens.ts';

/**
 * Attaches the adapter of a folder.
 * @returns its config
 * @throws UserError when files are missing or damaged, or when the adapter does not fit: one error with every mismatch
 */
export function attachStored(model: MambaForCausalLM, folder: string, trainable: boolean): LoraConfig {
  const { config, tensors } = readAdapter(folder, model);
  const read = (key: string, shape: number[]) => tf.tensor(tensors.get(key) as Float32Array, shape);
  const stored = ({ key, shape }: SavedParameter | TrainedTokens) => read(key, shape);
  attach(model, config, trainable, read, stored, stored);
  removePrincipalParts(model, config);
  return config;
}

/**
 * Attaches a fresh adapter that trains.
 * @returns its config, with the base's name
 * @throws ConfigError when a target module matches nothing (it lists what exists), or an adapter is attached already
 */
export function attachFresh(model: MambaForCausalLM, config: LoraConfig, seed: number): LoraConfig {
  const named = config.with({ baseModelNameOrPath: config.baseModelNameOrPath ?? model.source.name });
  checkNamesChoose(model, config);
  const targets = targetedModules(model, config);
  checkBiases(targets, config);
  checkInitialization(targets, config);
  const baseValue = ({ name }: SavedParameter) => copyOf(model.backbone.baseParameter(name) as Variable);
  attach(model, named, true, createDraw(named, seed), baseValue, ({ indices, shape }) =>
    baseRows(model, indices, shape),
  );
  initializeFromWeights(model, named, seed);
  return named;
}

/** Values of its own: an optimizer writes in place, and a clone would share the base parameter's memory. */
function copyOf(variable: Variable): tf.Tensor {
  return tf.tensor(variable.dataSync<'float32'>().slice(), variable.shape);
}

function baseRows(model: MambaForCausalLM, indices: readonly number[], shape: [number, number]): tf.Tensor {
  const W = model.backbone.layers.embeddings.weight;
  return tf.tensor(
    tf.tidy(() =>
      tf
        .gather(W, [...indices])
        .dataSync<'float32'>()
        .slice(),
    ),
    shape,
  );
}

function attach(
  model: MambaForCausalLM,
  config: LoraConfig,
  trainable: boolean,
  value: AdapterValue,
  savedValue: (saved: SavedParameter) => tf.Tensor,
  tokenValue: (tokens: TrainedTokens) => tf.Tensor,
): void {
  const targets = targetedModules(model, config);
  const saved = savedParameters(model, config);
  const tokens = trainedTokens(model, config);
  if ([...model.modules.values()].some((module) => module.lora)) {
    throw new ConfigError('the model has an adapter already; load the base model again to attach another.');
  }
  for (const module of targets) module.lora = loraOf(module, config, trainable, value);
  if (tokens) {
    const rows = tf.tidy(() => tf.variable(tokenValue(tokens), trainable));
    model.backbone.layers.embeddings.tokens = tokenRows(tokens.indices, rows, model.config.vocabSize);
  }
  for (const parameter of saved) {
    const variable = tf.tidy(() => tf.variable(savedValue(parameter), trainable));
    model.backbone.replaceParameter(parameter.name, variable);
  }
}

function checkBiases(targets: readonly Module[], config: LoraConfig): void {
  const embedding = targets.find(({ kind }) => kind === 'embedding');
  if (config.loraBias && embedding)
    throw new ConfigError(
      `lora_bias: an adapter of the embeddings has no bias (nor has peft's); take ${embedding.name} out of target_modules.`,
    );
  const hasBias = targets.some((module) => module.kind !== 'embedding' && module.bias);
  if (config.bias === 'lora_only' && !hasBias)
    throw new ConfigError(
      "bias: lora_only would train nothing, because none of the adapted modules has a bias; of Mamba's, dt_proj and conv1d have one.",
    );
}

/** Gives the first values of an adapter's tensor, by its name in peft's files. */
export type AdapterValue = (key: string, shape: number[]) => tf.Tensor;

/** A module's part of an adapter. */
export function loraOf(module: ModuleShape, config: LoraConfig, trainable: boolean, value: AdapterValue): LoraWeights {
  const tensors = new Map(
    adapterShapes(module, config).map(([key, shape]) => [
      key,
      tf.tidy(() => tf.variable(value(key, shape), trainable)),
    ]),
  );
  const keys = adapterKeys(module);
  const magnitude = tensors.get(keys.magnitude);
  return {
    A: tensors.get(keys.A) as Variable,
    B: tensors.get(keys.B) as Variable,
    bias: tensors.get(keys.bias) ?? null,
    magnitude: magnitude ? { value: magnitude, squares: null, norm: null } : null,
    scaling: config.scalingOf(module.name),
    dropout: config.loraDropout,
  };
}
