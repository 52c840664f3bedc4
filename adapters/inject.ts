// SPDX-License-Identifier: Apache-2.0
/** Attaches LoRA to a model's modules; answers to get_peft_model and PeftModel of peft. */
import type { Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { ConfigError } from '../src/errors.ts';
import type { MambaForCausalLM } from '../src/model/causal_lm.ts';
import { adapterKeys, adapterTensors, disposeLora, type LoraWeights, type Module } from '../src/model/modules.ts';
import { checkInitialization, createDraw, initializeFromWeights, removePrincipalParts } from './initialize.ts';
import type { LoraConfig } from './lora_config.ts';
import { readAdapter, writeAdapter } from './peft_files.ts';
import { type SavedParameter, savedParameters } from './saved_parameters.ts';
import { adapterShapes, checkNamesChoose, type ModuleShape, targetedModules } from './targets.ts';

export interface ParameterCounts {
  trainable: number;
  all: number;
  /** 100 * trainable / all */
  percent: number;
}

/** A model with an adapter attached. */
export class PeftModel {
  readonly model: MambaForCausalLM;
  readonly config: LoraConfig;

  /** Use {@link getPeftModel} or {@link PeftModel.fromPretrained}. */
  constructor(model: MambaForCausalLM, config: LoraConfig) {
    this.model = model;
    this.config = config;
  }

  /**
   * Attaches an adapter in peft's format.
   *
   * @param folder with adapter_config.json and adapter_model.safetensors
   * @param options.trainable whether its tensors train further; default false
   * @throws UserError when files are missing or damaged, or when the adapter does not fit: one error with every mismatch
   */
  static fromPretrained(model: MambaForCausalLM, folder: string, options: { trainable?: boolean } = {}): PeftModel {
    const { config, tensors } = readAdapter(folder, model);
    const read = (key: string, shape: number[]) => tf.tensor(tensors.get(key) as Float32Array, shape);
    attach(model, config, options.trainable ?? false, read, ({ key, shape }) => read(key, shape));
    removePrincipalParts(model, config);
    return new PeftModel(model, config);
  }

  /**
   * Writes the adapter in peft's format: adapter_config.json, adapter_model.safetensors, README.md.
   * @throws UserError when the folder cannot be written
   */
  async savePretrained(folder: string): Promise<void> {
    await writeAdapter(folder, this.config, this.tensors(), this.model.source.fingerprint);
  }

  /** The adapter's tensors under peft's names. */
  tensors(): Map<string, Variable> {
    const saved = savedParameters(this.model, this.config).map(({ name, key }): [string, Variable] => [
      key,
      this.model.parameters.get(name) as Variable,
    ]);
    return new Map([...this.loraTensors(), ...saved]);
  }

  /** Takes the adapter off the model, which computes what the base does again, and frees its tensors; answers to peft's unload. */
  unload(): void {
    const { backbone, modules, parameters } = this.model;
    for (const module of modules.values()) {
      if (module.lora) disposeLora(module.lora);
      module.lora = null;
    }
    const own = [...parameters].filter(([name, variable]) => variable !== backbone.baseParameter(name));
    backbone.restoreParameters();
    for (const [, variable] of own) variable.dispose();
  }

  /** What trains, out of all parameters with the adapter's. */
  counts(): ParameterCounts {
    const sum = (variables: Iterable<Variable>) => [...variables].reduce((total, variable) => total + variable.size, 0);
    const trainable = sum(this.model.trainableParameters().values());
    const all = sum(this.model.parameters.values()) + sum(new Map(this.loraTensors()).values());
    return { trainable, all, percent: (100 * trainable) / all };
  }

  private loraTensors(): [string, Variable][] {
    return [...this.model.modules.values()].flatMap(adapterTensors);
  }
}

/**
 * Attaches a fresh adapter that trains; the base parameters do not.
 *
 * @param options.seed of its random values; default 0
 * @throws ConfigError when a target module matches nothing (it lists what exists), or an adapter is attached already
 */
export function getPeftModel(model: MambaForCausalLM, config: LoraConfig, options: { seed?: number } = {}): PeftModel {
  const named = config.with({ baseModelNameOrPath: config.baseModelNameOrPath ?? model.source.name });
  checkNamesChoose(model, config);
  const targets = targetedModules(model, config);
  checkBiases(targets, config);
  checkInitialization(targets, config);
  const seed = options.seed ?? 0;
  const baseValue = ({ name }: SavedParameter) => copyOf(model.backbone.baseParameter(name) as Variable);
  attach(model, named, true, createDraw(named, seed), baseValue);
  initializeFromWeights(model, named, seed);
  return new PeftModel(model, named);
}

/** Values of its own: an optimizer writes in place, and a clone would share the base parameter's memory. */
function copyOf(variable: Variable): tf.Tensor {
  return tf.tensor(variable.dataSync<'float32'>().slice(), variable.shape);
}

function attach(
  model: MambaForCausalLM,
  config: LoraConfig,
  trainable: boolean,
  value: AdapterValue,
  savedValue: (saved: SavedParameter) => tf.Tensor,
): void {
  const targets = targetedModules(model, config);
  const conv = trainable && config.loraDropout > 0 && targets.find(({ kind }) => kind === 'conv1d');
  if (conv)
    throw new ConfigError(
      `lora_dropout: the input of a convolution cannot be dropped; set it to 0, or take ${conv.name} out of target_modules.`,
    );
  const saved = savedParameters(model, config);
  if ([...model.modules.values()].some((module) => module.lora)) {
    throw new ConfigError('the model has an adapter already; load the base model again to attach another.');
  }
  for (const module of targets) module.lora = loraOf(module, config, trainable, value);
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
