// SPDX-License-Identifier: Apache-2.0
/** An adapter read for a model whose parts are loaded one by one. */
import * as tf from '@tensorflow/tfjs-core';
import { EMBEDDING, HEAD, readFinite } from '../src/model/parameters.ts';
import {
  type AttachAdapter,
  replaceTensorRows,
  replaceTensors,
  type StreamedModel,
} from '../src/model/streamed_model.ts';
import { loraOf } from './inject.ts';
import type { LoraConfig } from './lora_config.ts';
import { readAdapter } from './peft_files.ts';
import { principalInitOf, residualWeight, weightPart } from './principal_factors.ts';
import { savedParameters } from './saved_parameters.ts';
import { targetedModules } from './targets.ts';
import { trainedTokens } from './trained_tokens.ts';

export interface DiskAdapter {
  readonly folder: string;
  readonly config: LoraConfig;
  /** Of the base that it was made for, where it says. */
  readonly fingerprint: string | null;
  /** Names of the modules that it adapts, in the model's order. */
  readonly targets: readonly string[];
  /** Ids of the tokens whose rows of the embeddings it holds; they are in `base`. */
  readonly tokens: readonly number[];
  /** Values by peft's names. */
  readonly tensors: ReadonlyMap<string, Float32Array<ArrayBuffer>>;
  /** Attaches to those modules that it adapts. */
  readonly attach: AttachAdapter;
  /** As `attach`, for some of its targets only. */
  attachOnly(targets: readonly string[]): AttachAdapter;
  /** The base with the tensors that the adapter brings along whole, and without what its first values took out. */
  readonly base: StreamedModel;
}

/** @throws UserError when files are missing or damaged, or when the adapter does not fit: one error with every mismatch */
export function openDiskAdapter(folder: string, model: StreamedModel): DiskAdapter {
  const { config, tensors, fingerprint } = readAdapter(folder, model);
  const targets = targetedModules(model, config).map((module) => module.name);
  const attachOnly =
    (names: readonly string[]): AttachAdapter =>
    (modules) => {
      for (const module of modules.filter(({ name }) => names.includes(name))) {
        const value = (key: string, shape: number[]) => tf.tensor(tensors.get(key) as Float32Array, shape);
        module.lora = loraOf(module, config, false, value);
      }
    };
  return {
    folder,
    config,
    fingerprint,
    targets,
    tokens: trainedTokens(model, config)?.indices ?? [],
    tensors,
    attach: attachOnly(targets),
    attachOnly,
    base: adaptedBase(model, config, tensors),
  };
}

function adaptedBase(
  model: StreamedModel,
  config: LoraConfig,
  tensors: ReadonlyMap<string, Float32Array<ArrayBuffer>>,
): StreamedModel {
  const values = new Map<string, () => Float32Array<ArrayBuffer>>();
  for (const { name, key } of savedParameters(model, config)) {
    values.set(name, () => tensors.get(key) as Float32Array<ArrayBuffer>);
  }
  for (const module of targetedModules(model, config)) {
    const name = `${module.name}.weight`;
    const init = principalInitOf(module, config);
    if (init) values.set(name, () => residualWeight(weightPart(module, config, init, readFinite(model.tensors, name))));
  }
  const { tieWordEmbeddings } = model.config;
  if (values.has(EMBEDDING) && tieWordEmbeddings && !values.has(HEAD)) {
    values.set(HEAD, () => readFinite(model.tensors, EMBEDDING));
  }
  const replaced = replaceTensors(
    model,
    values.has(HEAD) ? model.config.with({ tieWordEmbeddings: false }) : model.config,
    values,
  );
  const tokens = trainedTokens(model, config);
  if (!tokens) return replaced;
  const { indices, key, shape } = tokens;
  const rows = tensors.get(key) as Float32Array;
  const rowOf = (i: number) => rows.subarray(i * shape[1], (i + 1) * shape[1]);
  return replaceTensorRows(replaced, EMBEDDING, new Map(indices.map((index, i) => [index, rowOf(i)])));
}
