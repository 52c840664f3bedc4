// SPDX-License-Identifier: Apache-2.0
/** Mamba language models: answers to MambaForCausalLM of transformers. */
import type { Scalar, Tensor, Tensor1D, Tensor2D, Tensor3D, Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { SaveCheckpointOptions } from '../checkpoint/save_checkpoint.ts';
import { saveCheckpoint } from '../checkpoint/save_checkpoint.ts';
import { UserError } from '../errors.ts';
import { generate } from '../generation/generate.ts';
import type { GenerateOptions } from '../generation/options.ts';
import { type LossOptions, linearCrossEntropy } from '../ops/linear_cross_entropy.ts';
import { loraLinear } from '../ops/lora_linear.ts';
import { rowCrossEntropy } from '../ops/row_cross_entropy.ts';
import type { BackboneResult, MambaCache } from './backbone.ts';
import type { MambaConfig } from './config.ts';
import type { LoadOptions, ModelInputs, ModelSource } from './mamba_model.ts';
import { loadModel, MambaModel } from './mamba_model.ts';
import { checkIds, checkLabels, checkRows, shiftLabels } from './model_inputs.ts';
import { type DropoutState, embeddingMatrix, type Module } from './modules.ts';
import { HEAD, type WeightDtype } from './parameters.ts';

export interface ForwardInputs extends ModelInputs {
  /** [batch, seqlen], aligned with inputIds (the model shifts them); -100 is ignored. */
  labels?: readonly (readonly number[])[];
  /** Compute the logits of the last positions only, this many; 0, the default, for all. The loss is over all labels anyway. */
  logitsToKeep?: number;
}

export interface ForwardResult {
  /** [batch, seqlen, vocab_size]; of the last positions only with `logitsToKeep`. */
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
  /** [batch, seqlen, d_model], added to the embeddings. */
  embeddingNoise?: Float32Array;
  batch: number;
  seqlen: number;
}

/** A batch in device memory: what a recorded step reads. */
export interface DeviceBatch {
  /** int32 [batch, seqlen] */
  inputIds: Tensor2D;
  /** int32 [batch * seqlen]: the label of position t is the token at t + 1; -100 is ignored. */
  shiftedLabels: Tensor1D;
  /** float32 [batch, seqlen, 1], 0 at padding. */
  mask?: Tensor3D;
  /** int32 [batch, seqlen] */
  seqIdx?: Tensor2D;
  /** float32 [batch, seqlen, d_model], added to the embeddings. */
  embeddingNoise?: Tensor3D;
}

export class MambaForCausalLM {
  readonly backbone: MambaModel;

  /** Use {@link MambaForCausalLM.fromPretrained} or {@link MambaForCausalLM.fromConfig}. */
  constructor(backbone: MambaModel) {
    this.backbone = backbone;
  }

  /**
   * Loads a Hugging Face or state-spaces checkpoint: a folder or a Hub id.
   * @throws UserError when no backend is usable, files are missing or damaged, or tensors do not fit the config
   */
  static async fromPretrained(pathOrRepo: string, options: LoadOptions = {}): Promise<MambaForCausalLM> {
    return new MambaForCausalLM(await loadModel(pathOrRepo, options, true));
  }

  /** A randomly initialised model on the current backend. @param options.seed default 0 @param options.dtype see LoadOptions */
  static fromConfig(config: MambaConfig, options: { seed?: number; dtype?: WeightDtype } = {}): MambaForCausalLM {
    return new MambaForCausalLM(MambaModel.fromConfig(config, options));
  }

  get config(): MambaConfig {
    return this.backbone.config;
  }

  /**
   * What the model computes with, by checkpoint name: base parameters, and what an adapter has put in their place; without
   * lm_head.weight when it is tied to the embeddings.
   */
  get parameters(): ReadonlyMap<string, Variable> {
    return this.backbone.parameters;
  }

  /** Modules that an adapter can attach to, by name. */
  get modules(): ReadonlyMap<string, Module> {
    return this.backbone.modules;
  }

  get source(): ModelSource {
    return this.backbone.source;
  }

  /** Of the weight matrices' values as they were loaded. */
  get dtype(): WeightDtype {
    return this.backbone.dtype;
  }

  get generationConfig(): Readonly<Record<string, unknown>> | undefined {
    return this.backbone.generationConfig;
  }

  /** Recompute each layer's activations in the backward instead of keeping them. */
  get gradientCheckpointing(): boolean {
    return this.backbone.gradientCheckpointing;
  }

  set gradientCheckpointing(on: boolean) {
    this.backbone.gradientCheckpointing = on;
  }

  /**
   * Runs the model. The returned tensors are the caller's to dispose of.
   * @throws UserError when an id is outside the vocabulary, the rows have different lengths, or the inputs different shapes
   */
  forward(inputs: ForwardInputs): ForwardResult {
    const result = tf.tidy(() => {
      const run = this.backbone.runOn(inputs);
      const logits = this.logitsOf(lastPositions(run.hidden, inputs.logitsToKeep ?? 0));
      const loss = inputs.labels && this.meanLoss(run.hidden, inputs.labels);
      return { ...run, logits, loss } as unknown as tf.TensorContainer;
    }) as unknown as BackboneResult & { logits: Tensor3D; loss?: Scalar };
    const { logits, loss, hiddenStates, cache, hidden } = result;
    if (!hiddenStates) hidden.dispose();
    return {
      logits,
      ...(loss && { loss }),
      ...(hiddenStates && { hiddenStates }),
      ...(cache && { cacheParams: cache }),
    };
  }

  /**
   * One more position of every row, as a recording can take it: nothing is uploaded or read back, and `state` is updated in place.
   * Only on backends with the fused kernels.
   * @param tokens int32 [batch, 1], each below vocab_size: nobody checks it here
   * @returns logits of what follows [batch, vocab_size]
   */
  advance(tokens: Tensor2D, state: MambaCache): Tensor2D {
    return tf.tidy(() => {
      const result = this.backbone.run({ inputIds: tokens, cache: state, updateCache: true });
      const x = tf.reshape(result.hidden, [-1, this.config.hiddenSize]);
      return loraLinear({ x, W: this.head }) as Tensor2D;
    });
  }

  /**
   * Summed cross-entropy of a batch without its logits: what training and evaluation use. lossSum is differentiable in the trainable
   * parameters; gradient accumulation divides it by the tokens of the whole window.
   * @throws UserError when an id or label is outside the vocabulary
   */
  lossSum(batch: LossBatch): { lossSum: Scalar; count: Scalar } {
    return tf.tidy(() => this.lossSumOn(this.upload(batch)));
  }

  /** {@link lossSum} of a batch in device memory, which stays the caller's. @param loss what training adds to the cross-entropy */
  lossSumOn(
    { inputIds, shiftedLabels, mask, seqIdx, embeddingNoise }: DeviceBatch,
    loss: LossOptions = {},
  ): { lossSum: Scalar; count: Scalar } {
    return tf.tidy(() => {
      const { hidden } = this.backbone.run({
        inputIds,
        ...(mask && { mask }),
        ...(seqIdx && { seqIdx }),
        ...(embeddingNoise && { embeddingNoise }),
      });
      return this.summedLoss(hidden, shiftedLabels, loss);
    });
  }

  /**
   * Copies a batch to the device.
   * @throws UserError when an id or label is outside the vocabulary
   */
  upload(batch: LossBatch): DeviceBatch {
    const { inputIds, shiftedLabels } = this.hostBatch(batch);
    const { attentionMask, seqIdx, embeddingNoise } = batch;
    const shape: [number, number] = [batch.batch, batch.seqlen];
    return {
      inputIds: tf.tensor2d(inputIds, shape, 'int32'),
      shiftedLabels: tf.tensor1d(shiftedLabels, 'int32'),
      ...(attentionMask && { mask: tf.tensor3d(Float32Array.from(attentionMask), [...shape, 1]) }),
      ...(seqIdx && { seqIdx: tf.tensor2d(seqIdx, shape, 'int32') }),
      ...(embeddingNoise && {
        embeddingNoise: tf.tensor3d(embeddingNoise, [...shape, this.config.hiddenSize]),
      }),
    };
  }

  /**
   * What {@link upload} writes to the device.
   * @throws UserError when an id or label is outside the vocabulary
   */
  hostBatch({ inputIds, labels, seqlen }: LossBatch): { inputIds: Int32Array; shiftedLabels: Int32Array } {
    checkIds(inputIds, 'inputIds', this.config.vocabSize);
    checkLabels(labels, this.config.vocabSize);
    return { inputIds, shiftedLabels: shiftLabels(labels, seqlen) };
  }

  /**
   * Losses of single positions, for evaluation: nothing is differentiable in them. A position's loss does not depend on what comes
   * after it or on the other rows, so rows may be padded at the right.
   *
   * @param targets [batch * seqlen]: the id to predict at each position, such as the next one; -100 for none
   * @returns `losses`, in nats, of the positions with a target, row after row; the state when `inputs.useCache` asks for it
   * @throws UserError when an id or target is outside the vocabulary
   */
  positionLosses(inputs: ModelInputs, targets: Int32Array): { losses: Float32Array; cacheParams?: MambaCache } {
    checkLabels(targets, this.config.vocabSize);
    const places = Int32Array.from(targets.keys()).filter((place) => (targets[place] as number) >= 0);
    const { rows, cache } = tf.tidy(() => {
      const { hidden, cache } = this.backbone.runOn(inputs);
      const flat = tf.reshape(hidden, [-1, this.config.hiddenSize]);
      const rows = places.length === 0 ? null : tf.gather(flat, tf.tensor1d(places, 'int32'));
      return { rows, cache } as unknown as tf.TensorContainer;
    }) as unknown as { rows: Tensor2D | null; cache?: MambaCache };
    const labels = places.map((place) => targets[place] as number);
    const losses = rows ? tf.tidy(() => rowCrossEntropy(rows, this.head, labels)) : new Float32Array();
    rows?.dispose();
    return { losses, ...(cache && { cacheParams: cache }) };
  }

  /**
   * Continues prompts ({@link generate}).
   * @returns each prompt with its continuation
   */
  generate(inputIds: readonly (readonly number[])[], options: GenerateOptions = {}): Promise<number[][]> {
    return generate(this, inputIds, options);
  }

  /** Adapter tensors under peft's names and base parameters under the checkpoint's, as far as they train. */
  trainableParameters(): Map<string, Variable> {
    return this.backbone.trainableParameters();
  }

  /** Sets the training micro-step that dropout masks are drawn for; null ends training mode. */
  setDropout(state: DropoutState): void {
    this.backbone.setDropout(state);
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
    const { generationConfig } = this;
    await saveCheckpoint(folder, this.config, tensors, { ...(generationConfig && { generationConfig }), ...options });
  }

  /** Frees the parameters, and those of attached adapters. */
  dispose(): void {
    this.backbone.dispose();
  }

  /** The head's matrix [vocab_size, d_model]; to be asked for inside a tidy. */
  get head(): Tensor2D {
    const own = this.parameters.get(HEAD) as unknown as Tensor2D | undefined;
    return own ?? embeddingMatrix(this.backbone.layers.embeddings);
  }

  /** Of one position a row in products of a few rows, so that a row's bits do not depend on the batch. */
  private logitsOf(hidden: Tensor3D): Tensor {
    const [batch, seqlen, width] = hidden.shape;
    const W = this.head;
    if (seqlen > 1 || batch <= ROWS_AT_ONCE) return loraLinear({ x: hidden, W });
    const parts = Array.from({ length: Math.ceil(batch / ROWS_AT_ONCE) }, (_, i) => {
      const begin = i * ROWS_AT_ONCE;
      return tf.slice(hidden, [begin, 0, 0], [Math.min(ROWS_AT_ONCE, batch - begin), 1, width]);
    });
    return tf.concat(parts.map((x) => loraLinear({ x, W })));
  }

  private meanLoss(hidden: Tensor3D, labels: readonly (readonly number[])[]): Scalar {
    checkRows(labels, 'labels', hidden.shape.slice(0, 2) as [number, number]);
    const flat = Int32Array.from(labels.flat());
    checkLabels(flat, this.config.vocabSize);
    const { lossSum, count } = this.summedLoss(hidden, tf.tensor1d(shiftLabels(flat, hidden.shape[1]), 'int32'));
    return tf.div(lossSum, count);
  }

  private summedLoss(hidden: Tensor3D, labels: Tensor1D, loss: LossOptions = {}) {
    const rows = tf.reshape(hidden, [-1, this.config.hiddenSize]) as Tensor2D;
    return linearCrossEntropy({ hidden: rows, W: this.head, labels }, loss);
  }
}

/** Native products add a row's terms in an order that does not depend on the number of rows, up to this many (native/cpu/gemm.h). */
const ROWS_AT_ONCE = 8;

/** The last `count` positions of [batch, seqlen, d_model]; all for 0. */
function lastPositions(hidden: Tensor3D, count: number): Tensor3D {
  const [batch, seqlen, width] = hidden.shape;
  if (!Number.isInteger(count) || count < 0)
    throw new UserError(`forward: logitsToKeep is ${count}, expected a whole number from 0.`);
  if (count === 0 || count >= seqlen) return hidden;
  return tf.slice(hidden, [0, seqlen - count, 0], [batch, count, width]);
}
