// SPDX-License-Identifier: Apache-2.0
/** Mamba language models: answers to MambaModel and MambaForCausalLM of transformers. */
import type { Scalar, Tensor2D, Tensor3D, Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { BackendChoice } from '../backends/select.ts';
import { selectBackend } from '../backends/select.ts';
import { openCheckpoint } from '../checkpoint/checkpoint.ts';
import type { SaveCheckpointOptions } from '../checkpoint/save_checkpoint.ts';
import { saveCheckpoint } from '../checkpoint/save_checkpoint.ts';
import { UserError } from '../errors.ts';
import type { HubOptions } from '../hub.ts';
import { resolveModelFolder } from '../hub.ts';
import { linearCrossEntropy } from '../ops/linear_cross_entropy.ts';
import { loraLinear } from '../ops/lora_linear.ts';
import type { Backbone, MambaCache } from './backbone.ts';
import { buildBackbone, modulesOf, runBackbone } from './backbone.ts';
import type { MambaConfig } from './config.ts';
import type { DropoutState, Module } from './modules.ts';
import type { Parameters } from './parameters.ts';
import { disposeParameters, loadParameters, randomParameters } from './parameters.ts';

export interface LoadOptions extends HubOptions {
  /** tfjs backend to compute on; default `auto`, the best that works. */
  backend?: BackendChoice;
}

export interface ForwardInputs {
  /** Token ids [batch, seqlen], each below vocab_size; or `inputsEmbeds`. */
  inputIds?: readonly (readonly number[])[] | Tensor2D;
  /** [batch, seqlen, d_model], float32. */
  inputsEmbeds?: Tensor3D;
  /** [batch, seqlen], 0 at padding, on either side. Default all ones. */
  attentionMask?: readonly (readonly number[])[];
  /** [batch, seqlen], aligned with inputIds (the model shifts them); -100 is ignored. */
  labels?: readonly (readonly number[])[];
  /** State to continue from, of an earlier call with `useCache`. Stays the caller's. */
  cacheParams?: MambaCache;
  /** Return the state after the last position. Default false. */
  useCache?: boolean;
  /** Return the output of each layer and of the final norm. Default false. */
  outputHiddenStates?: boolean;
}

export interface ForwardResult {
  /** [batch, seqlen, vocab_size] */
  logits: Tensor3D;
  /** Mean cross-entropy over the labels, in nats; when labels were given. */
  loss?: Scalar;
  /** n_layer + 1 tensors [batch, seqlen, d_model]; when asked for. */
  hiddenStates?: Tensor3D[];
  /** When asked for; dispose of it when done. */
  cacheParams?: MambaCache;
}

/** A batch in host memory, rows of `seqlen` positions. */
export interface LossBatch {
  inputIds: Int32Array;
  /** Aligned with inputIds; -100 is ignored. */
  labels: Int32Array;
  /** 0 at padding. May be left out when padding is on the right: what follows a position cannot change it. */
  attentionMask?: Int32Array;
  /** Document of each position of packed rows. */
  seqIdx?: Int32Array;
  batch: number;
  seqlen: number;
}

export interface ModelSource {
  /** Folder that it was loaded from; null for a model made from a config. */
  folder: string | null;
  /** What the user called it: the path or Hub id. */
  name: string | null;
  revision: string | null;
}

/** Label of a position that no loss is taken at. */
const IGNORED_LABEL = -100;

export class MambaForCausalLM {
  readonly config: MambaConfig;
  /** Base parameters by checkpoint name; without lm_head.weight when it is tied to the embeddings. */
  readonly parameters: ReadonlyMap<string, Variable>;
  /** Modules that an adapter can attach to, by name. */
  readonly modules: ReadonlyMap<string, Module>;
  readonly source: ModelSource;
  readonly generationConfig: Readonly<Record<string, unknown>> | undefined;
  /** Recompute each layer's activations in the backward instead of keeping them. */
  gradientCheckpointing = false;
  private readonly backbone: Backbone;
  private dropout: DropoutState = null;

  /** Use {@link MambaForCausalLM.fromPretrained} or {@link MambaForCausalLM.fromConfig}. */
  constructor(
    config: MambaConfig,
    parameters: Parameters,
    source: ModelSource,
    generationConfig?: Readonly<Record<string, unknown>>,
  ) {
    this.config = config;
    this.parameters = parameters;
    this.source = source;
    this.generationConfig = generationConfig;
    this.backbone = buildBackbone(config, parameters);
    this.modules = modulesOf(this.backbone);
  }

  /**
   * Loads a Hugging Face or state-spaces checkpoint: a folder or a Hub id.
   * @throws UserError when no backend is usable, files are missing or damaged, or tensors do not fit the config
   */
  static async fromPretrained(pathOrRepo: string, options: LoadOptions = {}): Promise<MambaForCausalLM> {
    const { backend = 'auto', ...hub } = options;
    const folder = await resolveModelFolder(pathOrRepo, hub);
    const selected = await selectBackend(backend);
    hub.onMessage?.(selected.message);
    const { config, source, generationConfig } = openCheckpoint(folder);
    try {
      const parameters = loadParameters(config, source);
      return new MambaForCausalLM(
        config,
        parameters,
        { folder, name: pathOrRepo, revision: hub.revision ?? null },
        generationConfig,
      );
    } finally {
      source.close();
    }
  }

  /** A randomly initialised model on the current backend. @param options.seed default 0 */
  static fromConfig(config: MambaConfig, options: { seed?: number } = {}): MambaForCausalLM {
    const source = { folder: null, name: null, revision: null };
    return new MambaForCausalLM(config, randomParameters(config, options.seed ?? 0), source);
  }

  /**
   * Runs the model. The returned tensors are the caller's to dispose of.
   * @throws UserError when an id is outside the vocabulary, the rows have different lengths, or the inputs different shapes
   */
  forward(inputs: ForwardInputs): ForwardResult {
    const { vocabSize } = this.config;
    const result = tf.tidy(() => {
      const inputIds = inputs.inputIds && toIds(inputs.inputIds, 'inputIds', vocabSize);
      const shape = inputShape(inputIds, inputs.inputsEmbeds);
      if (inputs.labels) checkRows(inputs.labels, 'labels', shape);
      if (inputs.attentionMask) checkRows(inputs.attentionMask, 'attentionMask', shape);
      const mask =
        inputs.attentionMask && tf.expandDims(tf.cast(toIds(inputs.attentionMask, 'attentionMask', 2), 'float32'), 2);
      const { hidden, hiddenStates, cache } = runBackbone(this.backbone, {
        inputIds,
        inputsEmbeds: inputs.inputsEmbeds,
        mask: mask as Tensor3D | undefined,
        cache: inputs.cacheParams,
        useCache: inputs.useCache ?? false,
        outputHiddenStates: inputs.outputHiddenStates ?? false,
        dropout: this.dropout,
        gradientCheckpointing:
          this.gradientCheckpointing && !inputs.useCache && !inputs.cacheParams && !inputs.outputHiddenStates,
      });
      const logits = loraLinear({ x: hidden, W: this.head }) as Tensor3D;
      const loss = inputs.labels && this.meanLoss(hidden, inputs.labels);
      return { logits, loss, hiddenStates, cache: cache as unknown as tf.TensorContainer };
    });
    const cacheParams = result.cache as unknown as MambaCache | undefined;
    return {
      logits: result.logits,
      ...(result.loss && { loss: result.loss }),
      ...(result.hiddenStates && { hiddenStates: result.hiddenStates }),
      ...(cacheParams && { cacheParams }),
    };
  }

  /**
   * Summed cross-entropy of a batch without its logits: what training and evaluation use. lossSum is differentiable in the trainable
   * parameters; gradient accumulation divides it by the tokens of the whole window.
   * @throws UserError when an id or label is outside the vocabulary
   */
  lossSum(batch: LossBatch): { lossSum: Scalar; count: Scalar } {
    const { vocabSize } = this.config;
    checkIds(batch.inputIds, 'inputIds', vocabSize);
    checkLabels(batch.labels, vocabSize);
    const shape: [number, number] = [batch.batch, batch.seqlen];
    return tf.tidy(() => {
      const mask =
        batch.attentionMask && tf.expandDims(tf.cast(tf.tensor2d(batch.attentionMask, shape, 'int32'), 'float32'), 2);
      const { hidden } = runBackbone(this.backbone, {
        inputIds: tf.tensor2d(batch.inputIds, shape, 'int32'),
        mask: mask as Tensor3D | undefined,
        seqIdx: batch.seqIdx && tf.tensor2d(batch.seqIdx, shape, 'int32'),
        dropout: this.dropout,
        gradientCheckpointing: this.gradientCheckpointing,
      });
      return this.summedLoss(hidden, shiftLabels(batch.labels, batch.seqlen));
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

  /** Sets the training micro-step that dropout masks are drawn for; null ends training mode. */
  setDropout(state: DropoutState): void {
    this.dropout = state;
  }

  /**
   * Writes a Hugging Face model folder of the base parameters.
   * @throws UserError when the folder is not empty or cannot be written
   */
  async savePretrained(folder: string, options: SaveCheckpointOptions = {}): Promise<void> {
    const tensors = Array.from(this.parameters, ([name, variable]) => ({
      name,
      shape: variable.shape,
      data: () => variable.dataSync<'float32'>(),
    }));
    await saveCheckpoint(folder, this.config, tensors, {
      ...(this.generationConfig && { generationConfig: this.generationConfig }),
      ...options,
    });
  }

  /** Frees the parameters, and those of attached adapters. */
  dispose(): void {
    for (const module of this.modules.values())
      tf.dispose([module.lora?.A, module.lora?.B].filter((variable) => variable !== undefined));
    for (const layer of this.backbone.layers) layer.frozenA?.dispose();
    disposeParameters(this.parameters as Parameters);
  }

  /** The head's matrix [vocab_size, d_model]. */
  private get head(): Tensor2D {
    return (this.parameters.get('lm_head.weight') ?? this.backbone.embeddings.weight) as unknown as Tensor2D;
  }

  private meanLoss(hidden: Tensor3D, labels: readonly (readonly number[])[]): Scalar {
    const flat = Int32Array.from(labels.flat());
    checkLabels(flat, this.config.vocabSize);
    const { lossSum, count } = this.summedLoss(hidden, shiftLabels(flat, hidden.shape[1]));
    return tf.div(lossSum, count);
  }

  private summedLoss(hidden: Tensor3D, labels: Int32Array) {
    const rows = tf.reshape(hidden, [-1, this.config.hiddenSize]) as Tensor2D;
    return linearCrossEntropy({ hidden: rows, W: this.head, labels: tf.tensor1d(labels, 'int32') });
  }
}

/** A module's adapter tensors under peft's names. */
export function adapterTensors(module: Module): [string, Variable][] {
  if (!module.lora) return [];
  const prefix = `base_model.model.${module.name}`;
  const { A, B } = module.lora;
  return module.kind === 'embedding'
    ? [
        [`${prefix}.lora_embedding_A`, A],
        [`${prefix}.lora_embedding_B`, B],
      ]
    : [
        [`${prefix}.lora_A.weight`, A],
        [`${prefix}.lora_B.weight`, B],
      ];
}

/** The label of position t is the token at t + 1; a row's last position has none. */
function shiftLabels(labels: Int32Array, seqlen: number): Int32Array {
  return labels.map((_, i) => ((i + 1) % seqlen === 0 ? IGNORED_LABEL : (labels[i + 1] as number)));
}

function toIds(rows: readonly (readonly number[])[] | Tensor2D, name: string, limit: number): Tensor2D {
  if (rows instanceof tf.Tensor) return rows;
  const seqlen = rows[0]?.length ?? 0;
  if (seqlen === 0)
    throw new UserError(`${name}: found no ${rows.length === 0 ? 'rows' : 'positions'}; expected at least one.`);
  const uneven = rows.findIndex((row) => row.length !== seqlen);
  if (uneven >= 0) {
    throw new UserError(
      `${name}: row ${uneven} has ${rows[uneven]?.length} positions, row 0 has ${seqlen}; pad the rows to one length.`,
    );
  }
  const flat = Int32Array.from(rows.flat());
  checkIds(flat, name, limit);
  return tf.tensor2d(flat, [rows.length, seqlen], 'int32');
}

/** [batch, seqlen] of what the model is given. */
function inputShape(inputIds: Tensor2D | undefined, inputsEmbeds: Tensor3D | undefined): [number, number] {
  if (inputIds && inputsEmbeds) throw new UserError('forward: found inputIds and inputsEmbeds; expected one of them.');
  const given = inputIds ?? inputsEmbeds;
  if (!given) throw new UserError('forward: found neither inputIds nor inputsEmbeds; expected one of them.');
  return given.shape.slice(0, 2) as [number, number];
}

function checkRows(rows: readonly (readonly number[])[], name: string, [batch, seqlen]: [number, number]): void {
  const wrong = rows.find((row) => row.length !== seqlen);
  if (rows.length === batch && !wrong) return;
  const found = [rows.length, (wrong ?? rows[0])?.length ?? 0];
  throw new UserError(`${name}: found [${found.join(', ')}], expected [${batch}, ${seqlen}] as the input has.`);
}

function checkIds(ids: Int32Array, name: string, limit: number): void {
  const bad = ids.findIndex((id) => id < 0 || id >= limit);
  if (bad >= 0) throw new UserError(`${name}: ${ids[bad]} at position ${bad} lies outside 0..${limit - 1}.`);
}

function checkLabels(labels: Int32Array, vocabSize: number): void {
  const bad = labels.findIndex((label) => label !== IGNORED_LABEL && (label < 0 || label >= vocabSize));
  if (bad < 0) return;
  throw new UserError(
    `labels: ${labels[bad]} at position ${bad} lies outside 0..${vocabSize - 1}; ${IGNORED_LABEL} is ignored.`,
  );
}
