// SPDX-License-Identifier: Apache-2.0
/** Attaches LoRA to a model's modules; answers to get_peft_model and PeftModel of peft. */
import type { Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { ConfigError } from '../src/errors.ts';
import type { MambaForCausalLM } from '../src/model/causal_lm.ts';
import type { LoraWeights, Module } from '../src/model/modules.ts';
import { adapterTensors } from '../src/model/modules.ts';
import { createRandom, randomStreams } from '../src/random.ts';
import type { LoraConfig } from './lora_config.ts';
import { readAdapter, writeAdapter } from './peft_files.ts';
import { adapterShapes, targetedModules } from './targets.ts';

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
    attach(model, config, options.trainable ?? false, (key, shape) =>
      tf.tensor(tensors.get(key) as Float32Array, shape),
    );
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
    return new Map([...this.model.modules.values()].flatMap(adapterTensors));
  }

  /** What trains, out of all parameters with the adapter's. */
  counts(): ParameterCounts {
    const sum = (variables: Iterable<Variable>) => [...variables].reduce((total, variable) => total + variable.size, 0);
    const trainable = sum(this.model.trainableParameters().values());
    const all = sum(this.model.parameters.values()) + sum(this.tensors().values());
    return { trainable, all, percent: (100 * trainable) / all };
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
  let substream = 0;
  attach(model, named, true, (key, shape) => {
    const random = createRandom({ seed: options.seed ?? 0, stream: randomStreams.init, substream: substream++ });
    const draw = initialValue(key, shape, named, random);
    return tf.tensor(Float32Array.from({ length: tf.util.sizeFromShape(shape) }, draw), shape);
  });
  return new PeftModel(model, named);
}

function attach(model: MambaForCausalLM, config: LoraConfig, trainable: boolean, value: AdapterValue): void {
  const targets = targetedModules(model, config);
  if ([...model.modules.values()].some((module) => module.lora)) {
    throw new ConfigError('the model has an adapter already; load the base model again to attach another.');
  }
  for (const module of targets) module.lora = loraOf(module, config, trainable, value);
}

/** Gives the first values of an adapter's tensor, by its name in peft's files. */
export type AdapterValue = (key: string, shape: [number, number]) => tf.Tensor;

/** A module's part of an adapter. */
export function loraOf(module: Module, config: LoraConfig, trainable: boolean, value: AdapterValue): LoraWeights {
  const [A, B] = adapterShapes(module, config.r).map(([key, shape]) =>
    tf.tidy(() => tf.variable(value(key, shape), trainable)),
  );
  return { A: A as Variable, B: B as Variable, scaling: config.scaling, dropout: config.loraDropout };
}

/** peft's reset_lora_parameters. */
function initialValue(
  key: string,
  shape: [number, number],
  config: LoraConfig,
  random: ReturnType<typeof createRandom>,
): () => number {
  const { initLoraWeights, r } = config;
  const uniform = () => (2 * random.uniform() - 1) / Math.sqrt(shape[1]);
  if (key.endsWith('.lora_embedding_A')) return initLoraWeights === false ? () => random.normal() : () => 0;
  if (key.endsWith('.lora_embedding_B')) return () => random.normal();
  if (key.endsWith('.lora_B.weight')) return initLoraWeights === false ? uniform : () => 0;
  return initLoraWeights === 'gaussian' ? () => random.normal() / r : uniform;
}
