// SPDX-License-Identifier: Apache-2.0
/** Mamba without the language-model head: answers to MambaModel of transformers. */
import type { Tensor3D, Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { MatmulPrecision } from '../backends/precision.ts';
import { setMatmulPrecision } from '../backends/precision.ts';
import type { BackendChoice } from '../backends/select.ts';
import { selectBackend } from '../backends/select.ts';
import { openCheckpoint } from '../checkpoint/checkpoint.ts';
import { expectedTensors } from '../checkpoint/expected_tensors.ts';
import { fingerprint } from '../checkpoint/fingerprint.ts';
import type { HubOptions } from '../hub.ts';
import { resolveModelFolder } from '../hub.ts';
import type { Backbone, BackboneInputs, BackboneResult, MambaCache } from './backbone.ts';
import { buildBackbone, modulesOf, runBackbone } from './backbone.ts';
import type { MambaConfig } from './config.ts';
import { checkRows, inputShape, toIds } from './model_inputs.ts';
import type { DropoutState, Module } from './modules.ts';
import { adapterTensors, disposeLora } from './modules.ts';
import type { Parameters, WeightDtype } from './parameters.ts';
import { disposeParameters, EMBEDDING, HEAD, loadParameters, randomParameters } from './parameters.ts';
import { disposeTokens } from './token_rows.ts';

export interface LoadOptions extends HubOptions {
  /** tfjs backend to compute on; default `auto`, the best that works. */
  backend?: BackendChoice;
  /**
   * Type of the weight matrices' values; default `float32`, as stored. With `bfloat16` they are rounded when they are loaded, and
   * still computed with in float32; the native backend reads them from copies of half the size when it generates.
   */
  dtype?: WeightDtype;
  /** Precision of products with weights; default `highest`, float32, and the only one outside the cuda backend. */
  matmulPrecision?: MatmulPrecision;
}

export interface ModelInputs {
  /** Token ids [batch, seqlen], each below vocab_size; or `inputsEmbeds`. */
  inputIds?: readonly (readonly number[])[] | tf.Tensor2D;
  /** [batch, seqlen, d_model], float32. */
  inputsEmbeds?: Tensor3D;
  /** [batch, seqlen], 0 at padding, on either side. Default all ones. */
  attentionMask?: readonly (readonly number[])[];
  /** Document of each position [batch, seqlen] of rows that hold several; states start from zero where it changes. Default one document a row. */
  seqIdx?: readonly (readonly number[])[];
  /** State to continue from, of an earlier call with `useCache`. Stays the caller's. */
  cacheParams?: MambaCache;
  /** Return the state after the last position. Default false. */
  useCache?: boolean;
  /** Return the output of each layer and of the final norm. Default false. */
  outputHiddenStates?: boolean;
}

export interface ModelResult {
  /** After norm_f: [batch, seqlen, d_model]. */
  lastHiddenState: Tensor3D;
  /** n_layer + 1 tensors [batch, seqlen, d_model]; when asked for. */
  hiddenStates?: Tensor3D[];
  /** When asked for; dispose of it when done. */
  cacheParams?: MambaCache;
}

export interface ModelSource {
  /** Folder that it was loaded from; null for a model made from a config. */
  folder: string | null;
  /** What the user called it: the path or Hub id. */
  name: string | null;
  revision: string | null;
  /** Of the weights ({@link fingerprint}); null for a model made from a config. */
  fingerprint: string | null;
}

export class MambaModel {
  readonly config: MambaConfig;
  /** What the model computes with, by checkpoint name: base parameters, and what an adapter has put in their place. */
  readonly parameters: ReadonlyMap<string, Variable>;
  /** Modules that an adapter can attach to, by name. */
  readonly modules: ReadonlyMap<string, Module>;
  readonly source: ModelSource;
  readonly generationConfig: Readonly<Record<string, unknown>> | undefined;
  /** Of the weight matrices' values as they were loaded. */
  readonly dtype: WeightDtype;
  /** Recompute each layer's activations in the backward instead of keeping them. */
  gradientCheckpointing = false;
  /** What runs, and what adapters are on it. */
  readonly layers: Backbone;
  /** Base variables that another is in the place of; null where there was none. */
  private readonly replaced = new Map<string, Variable | null>();
  private dropout: DropoutState = null;

  /** Use {@link MambaModel.fromPretrained} or {@link MambaModel.fromConfig}. */
  constructor(
    config: MambaConfig,
    parameters: Parameters,
    source: ModelSource,
    generationConfig?: Readonly<Record<string, unknown>>,
    dtype: WeightDtype = 'float32',
  ) {
    this.config = config;
    this.parameters = parameters;
    this.source = source;
    this.generationConfig = generationConfig;
    this.dtype = dtype;
    this.layers = buildBackbone(config, parameters);
    this.modules = modulesOf(this.layers);
  }

  /**
   * Loads a Hugging Face or state-spaces checkpoint, a folder or a Hub id, without a head of its own.
   * @throws UserError when no backend is usable, files are missing or damaged, or tensors do not fit the config
   */
  static async fromPretrained(pathOrRepo: string, options: LoadOptions = {}): Promise<MambaModel> {
    return loadModel(pathOrRepo, options, false);
  }

  /** A randomly initialised model on the current backend. @param options.seed default 0 @param options.dtype see LoadOptions */
  static fromConfig(config: MambaConfig, options: { seed?: number; dtype?: WeightDtype } = {}): MambaModel {
    const { seed = 0, dtype = 'float32' } = options;
    return new MambaModel(config, randomParameters(config, seed, dtype), NO_SOURCE, undefined, dtype);
  }

  /**
   * Runs the model. The returned tensors are the caller's to dispose of.
   * @throws UserError when an id is outside the vocabulary, the rows have different lengths, or the inputs different shapes
   */
  forward(inputs: ModelInputs): ModelResult {
    const { hidden, hiddenStates, cache } = tf.tidy(
      () => this.runOn(inputs) as unknown as tf.TensorContainer,
    ) as unknown as BackboneResult;
    return { lastHiddenState: hidden, ...(hiddenStates && { hiddenStates }), ...(cache && { cacheParams: cache }) };
  }

  /** {@link forward} inside the caller's tidy. */
  runOn(inputs: ModelInputs): BackboneResult {
    const inputIds = inputs.inputIds && toIds(inputs.inputIds, 'inputIds', this.config.vocabSize);
    const { attentionMask: mask, seqIdx } = inputs;
    const shape = inputShape(inputIds, inputs.inputsEmbeds);
    if (mask) checkRows(mask, 'attentionMask', shape);
    if (seqIdx) checkRows(seqIdx, 'seqIdx', shape);
    return this.run({
      inputIds,
      inputsEmbeds: inputs.inputsEmbeds,
      mask: mask && (tf.expandDims(tf.cast(toIds(mask, 'attentionMask', 2), 'float32'), 2) as Tensor3D),
      seqIdx: seqIdx && toIds(seqIdx, 'seqIdx', 2 ** 31),
      cache: inputs.cacheParams,
      useCache: inputs.useCache ?? false,
      outputHiddenStates: inputs.outputHiddenStates ?? false,
    });
  }

  /** Runs the layers on tensors, inside the caller's tidy. */
  run(inputs: Omit<BackboneInputs, 'dropout' | 'gradientCheckpointing'>): BackboneResult {
    const keepsMore = inputs.useCache || inputs.cache || inputs.outputHiddenStates;
    return runBackbone(this.layers, {
      ...inputs,
      dropout: this.dropout,
      gradientCheckpointing: this.gradientCheckpointing && !keepsMore,
    });
  }

  /** Adapter tensors under peft's names and base parameters under the checkpoint's, as far as they train. */
  trainableParameters(): Map<string, Variable> {
    const trainable = new Map<string, Variable>();
    for (const module of this.modules.values()) {
      for (const [key, variable] of adapterTensors(module)) if (variable.trainable) trainable.set(key, variable);
    }
    for (const [name, variable] of this.parameters) if (variable.trainable) trainable.set(name, variable);
    return trainable;
  }

  /**
   * Computes with a variable in the place of a base parameter, until {@link restoreParameters}. A tied model may be given a head of its
   * own (lm_head.weight); while its embeddings are replaced, its head stays with the base matrix, unless it is kept tied.
   * @param keepTied whether a tied head computes with the new embeddings; default false
   */
  replaceParameter(name: string, variable: Variable, keepTied = false): void {
    const parameters = this.parameters as Parameters;
    const base = parameters.get(name) ?? null;
    if (!this.replaced.has(name)) this.replaced.set(name, base);
    if (name === EMBEDDING && base && !parameters.has(HEAD) && !keepTied) {
      this.replaced.set(HEAD, null);
      parameters.set(HEAD, base);
    }
    parameters.set(name, variable);
  }

  /**
   * Puts the base parameters back.
   * @returns the variables that were in their places, the caller's from here on
   */
  restoreParameters(): Map<string, Variable> {
    const parameters = this.parameters as Parameters;
    const taken = this.replacements();
    for (const [name, base] of this.replaced) {
      if (base) parameters.set(name, base);
      else parameters.delete(name);
    }
    this.replaced.clear();
    return taken;
  }

  /** The variables that are in the place of base parameters, by name. */
  replacements(): Map<string, Variable> {
    const baseEmbeddings = this.replaced.get(EMBEDDING);
    const found = [...this.replaced.keys()].map((name): [string, Variable] => [
      name,
      this.parameters.get(name) as Variable,
    ]);
    return new Map(found.filter(([, variable]) => variable !== baseEmbeddings));
  }

  /** The base parameters by checkpoint name, whatever is in their places. */
  baseParameters(): Map<string, Variable> {
    const base = new Map(this.parameters);
    for (const [name, variable] of this.replaced) {
      if (variable) base.set(name, variable);
      else base.delete(name);
    }
    return base;
  }

  /** A base parameter, whatever is in its place; the embeddings for a tied head. */
  baseParameter(name: string): Variable | undefined {
    const found = this.replaced.get(name) ?? this.parameters.get(name);
    return found ?? (name === HEAD ? this.baseParameter(EMBEDDING) : undefined);
  }

  /** Sets the training micro-step that dropout masks are drawn for; null ends training mode. */
  setDropout(state: DropoutState): void {
    this.dropout = state;
  }

  /** Frees the parameters, and those of attached adapters. */
  dispose(): void {
    for (const { lora } of this.modules.values()) if (lora) disposeLora(lora);
    const { tokens } = this.layers.embeddings;
    if (tokens) disposeTokens(tokens);
    for (const layer of this.layers.layers) layer.frozenA?.A.dispose();
    for (const base of this.replaced.values()) base?.dispose();
    disposeParameters(this.parameters as Parameters);
  }
}

/** Where a model came from that was made, not loaded. */
const NO_SOURCE: ModelSource = { folder: null, name: null, revision: null, fingerprint: null };

/** Loads a checkpoint, with or without the head's own matrix. */
export async function loadModel(pathOrRepo: string, options: LoadOptions, withHead: boolean): Promise<MambaModel> {
  const { backend = 'auto', matmulPrecision = 'highest', dtype = 'float32', ...hub } = options;
  const folder = await resolveModelFolder(pathOrRepo, hub);
  const selected = await selectBackend(backend);
  hub.onMessage?.(selected.message);
  setMatmulPrecision(matmulPrecision);
  const { config, source, generationConfig } = openCheckpoint(folder);
  try {
    const parameters = loadParameters(config, source, { without: withHead ? [] : [HEAD], dtype });
    const origin = {
      folder,
      name: pathOrRepo,
      revision: hub.revision ?? null,
      fingerprint: fingerprint(expectedTensors(config), source),
    };
    return new MambaModel(config, parameters, origin, generationConfig, dtype);
  } finally {
    source.close();
  }
}
