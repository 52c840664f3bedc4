// SPDX-License-Identifier: Apache-2.0
/** The model's layers as records over its parameters: what an adapter attaches to. */
import type { Scalar, Tensor, Tensor1D, Tensor2D, Tensor3D, Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import {
  type CausalConv1dInputs,
  type CausalConv1dOptions,
  type CausalConv1dResult,
  causalConv1d,
} from '../ops/causal_conv1d.ts';
import { doraNorm, sumOfSquares } from '../ops/dora_norm.ts';
import { dropElements, MASKS_PER_STEP } from '../ops/dropout.ts';
import { loraEmbedding } from '../ops/lora_embedding.ts';
import { loraLinear } from '../ops/lora_linear.ts';
import { times } from '../ops/times.ts';
import { lookUpTokens, type TokenRows, tokenMatrix } from './token_rows.ts';

/**
 * A low-rank adapter on one module. Linear: A [r, in], B [out, r]. Embedding: A [r, vocab_size], B [d_model, r]. conv1d, whose weight is
 * taken as the matrix [d_inner, d_conv]: A [r, d_conv], B [d_inner, r].
 */
export interface LoraWeights {
  A: Variable;
  B: Variable;
  /** Added to B's product before the scaling [out]; only with lora_bias. */
  bias: Variable | null;
  /** DoRA's, when it is one. */
  magnitude: DoraMagnitude | null;
  scaling: number;
  /** Probability of zeroing an element of the adapter's input while training; the embeddings' has none. */
  dropout: number;
}

/** The norms that a DoRA module's weight vectors have, and what of their computation is kept. */
export interface DoraMagnitude {
  /** [out]; for an embedding [d_model]: its columns are what has a norm. */
  value: Variable;
  /** Squared norms of the base weight's vectors, while that does not train. */
  squares: Tensor1D | null;
  /** Norms of the merged weight's vectors, while A and B do not train either. */
  norm: Tensor1D | null;
}

export interface LinearModule {
  readonly kind: 'linear';
  /** As in checkpoints: backbone.layers.0.mixer.in_proj */
  readonly name: string;
  /** Position in the model: tells the dropout masks of two modules apart. */
  readonly index: number;
  /** [out, in] */
  readonly weight: Variable;
  /** [out], or null. */
  readonly bias: Variable | null;
  lora: LoraWeights | null;
}

export interface EmbeddingModule {
  readonly kind: 'embedding';
  readonly name: string;
  readonly index: number;
  /** [vocab_size, d_model] */
  readonly weight: Variable;
  lora: LoraWeights | null;
  /** Rows of single tokens in the place of the weight's; not together with `lora`. */
  tokens: TokenRows | null;
}

export interface ConvModule {
  readonly kind: 'conv1d';
  readonly name: string;
  readonly index: number;
  /** [d_inner, 1, d_conv] */
  readonly weight: Variable;
  /** [d_inner], or null. */
  readonly bias: Variable | null;
  lora: LoraWeights | null;
}

export type Module = LinearModule | EmbeddingModule | ConvModule;

/**
 * Names a training micro-step, so that its dropout masks differ from every other's: a number, or an int32 scalar that a recorded
 * step reads at each launch. Null: evaluation, no dropout.
 */
export type DropoutState = { seed: number; step: number | Scalar } | null;

/**
 * Applies a linear module. With dropout DoRA's factor g stands before what comes of the dropped input d alone, as in peft:
 * y = W x + (g - 1) W d + g scaling B A d + bias.
 * @param withBias false leaves the bias out (dt_proj's is added inside the scan)
 */
export function applyLinear(module: LinearModule, x: Tensor, dropout: DropoutState, withBias = true): Tensor {
  const { lora } = module;
  const bias = withBias ? biasOf(module) : null;
  if (!lora?.magnitude) return applyLora(module, x, dropout, bias);
  const factor = doraFactor(module, lora, lora.magnitude);
  const dropped = droppedInput(module, x, dropout);
  if (dropped) {
    const rest = loraLinear({ x: tf.sub(x, dropped), W: weightMatrix(module.weight), bias });
    return tf.add(tf.mul(applyLora(module, dropped, null, null), factor), rest);
  }
  const scaled = tf.mul(applyLora(module, x, dropout, null), factor);
  return bias ? tf.add(scaled, bias) : scaled;
}

/**
 * Applies a convolution and SiLU. With dropout, as {@link applyLinear}: the adapter's part, and what DoRA changes, come of the dropped input.
 */
export function applyConv(
  module: ConvModule,
  inputs: Pick<CausalConv1dInputs, 'x' | 'seqIdx' | 'convState'>,
  dropout: DropoutState,
  options: Omit<CausalConv1dOptions, 'silu'>,
): CausalConv1dResult {
  const [weight, bias] = [convWeightOf(module), biasOf(module)];
  const x = droppedInput(module, inputs.x, dropout) as Tensor3D | null;
  if (!x) return causalConv1d({ ...inputs, weight, bias }, options);
  const { seqIdx } = inputs;
  const ofDropped = causalConv1d({ x, seqIdx, weight }, { silu: false }).y;
  const rest = tf.sub(inputs.x, x) as Tensor3D;
  const ofRest = causalConv1d({ x: rest, seqIdx, weight: weightMatrix(module.weight), bias }, { silu: false }).y;
  const sum = tf.add(ofDropped, ofRest);
  return { y: tf.mul(sum, tf.sigmoid(sum)) as Tensor3D };
}

/** What an adapter with dropout reads in training; null where nothing is dropped. */
function droppedInput(module: LinearModule | ConvModule, x: Tensor, dropout: DropoutState): Tensor | null {
  const mask = maskOf(module, dropout);
  if (!dropout || mask.dropout === 0) return null;
  return dropElements(x, { ...mask, seed: dropout.seed, dropoutStep: dropoutStepOf(dropout) });
}

/** The weight that a convolution computes with, its adapter's part in it: [d_inner, d_conv]. */
export function convWeightOf(module: ConvModule): Tensor2D {
  const { lora } = module;
  const W = weightMatrix(module.weight);
  if (!lora) return W;
  const merged = tf.add(W, times(tf.matMul(lora.B, lora.A), lora.scaling)) as Tensor2D;
  if (!lora.magnitude) return merged;
  return tf.mul(merged, tf.expandDims(doraFactor(module, lora, lora.magnitude), 1));
}

/** A weight as the matrix that an adapter's product is added to: a convolution's [d_inner, 1, d_conv] without its middle axis. */
export function weightMatrix(weight: Tensor): Tensor2D {
  return (weight.rank === 2 ? weight : tf.reshape(weight, matrixShape(weight.shape))) as Tensor2D;
}

/** The shape of {@link weightMatrix}. */
export function matrixShape(shape: readonly number[]): [rows: number, columns: number] {
  return [shape[0] as number, shape.at(-1) as number];
}

/** The bias that a module computes with, its adapter's with it: [out], or null. */
export function biasOf({ bias, lora }: Pick<LinearModule | ConvModule, 'bias' | 'lora'>): Tensor1D | null {
  const own = bias as unknown as Tensor1D | null;
  if (!lora?.bias) return own;
  const added = times(lora.bias as unknown as Tensor1D, lora.scaling);
  return own ? tf.add(own, added) : added;
}

/** A linear module's weight and adapter, and where its dropout masks lie, as the ops take them. */
export function linearOperands(module: LinearModule, dropout: DropoutState) {
  const { weight, lora } = module;
  return {
    W: weight as unknown as Tensor2D,
    A: (lora?.A ?? null) as Tensor2D | null,
    B: (lora?.B ?? null) as Tensor2D | null,
    scaling: lora?.scaling ?? 1,
    ...maskOf(module, dropout),
  };
}

/** Where a module's dropout mask lies; probability 0 where nothing is dropped. */
function maskOf({ lora, index }: Pick<Module, 'lora' | 'index'>, dropout: DropoutState) {
  const isDropping = dropout !== null && lora !== null && lora.dropout > 0;
  return {
    dropout: isDropping ? lora.dropout : 0,
    offset: isDropping ? firstMask(dropout.step) + index : 0,
  };
}

/** The scalar that a recorded step's dropout reads; null without. */
export function dropoutStepOf(dropout: DropoutState): Scalar | null {
  return dropout && typeof dropout.step !== 'number' ? dropout.step : null;
}

function applyLora(module: LinearModule, x: Tensor, dropout: DropoutState, bias: Tensor1D | null): Tensor {
  const { W, A, B, ...settings } = linearOperands(module, dropout);
  const dropoutStep = settings.dropout > 0 ? dropoutStepOf(dropout) : null;
  return loraLinear(
    { x, W, bias, loraA: A, loraB: B, dropoutStep },
    { ...settings, ...(dropout && { seed: dropout.seed }) },
  );
}

function firstMask(step: number | Scalar): number {
  return typeof step === 'number' ? step * MASKS_PER_STEP : 0;
}

/** Looks ids [batch, seqlen] up in an embedding module. */
export function applyEmbedding(module: EmbeddingModule, ids: Tensor): Tensor {
  const { lora, tokens, weight } = module;
  if (tokens) return lookUpTokens(weight as unknown as Tensor2D, tokens, ids);
  const rows = loraEmbedding(
    {
      ids,
      W: weight as unknown as Tensor2D,
      loraA: (lora?.A ?? null) as Tensor2D | null,
      loraB: (lora?.B ?? null) as Tensor2D | null,
    },
    lora?.scaling ?? 1,
  );
  return lora?.magnitude ? tf.mul(rows, doraFactor(module, lora, lora.magnitude)) : rows;
}

/** The matrix of an embedding module without an adapter of its lookup: what a tied head computes with. See {@link tokenMatrix}. */
export function embeddingMatrix({ weight, tokens }: EmbeddingModule): Tensor2D {
  const W = weight as unknown as Tensor2D;
  return tokens ? tokenMatrix(W, tokens) : W;
}

/** What DoRA multiplies each output of W + scaling B A by: its magnitude over its norm. */
function doraFactor(module: Module, lora: LoraWeights, magnitude: DoraMagnitude): Tensor {
  return tf.div(magnitude.value, magnitude.norm ?? currentNorm(module, lora, magnitude));
}

function currentNorm(module: Module, lora: LoraWeights, magnitude: DoraMagnitude): Tensor1D {
  const transposed = module.kind === 'embedding';
  const W = weightMatrix(module.weight);
  const [loraA, loraB] = [lora.A, lora.B] as unknown as [Tensor2D, Tensor2D];
  magnitude.squares ??= tf.keep(sumOfSquares(W, transposed));
  const norm = doraNorm({ W, loraA, loraB, squares: magnitude.squares }, lora.scaling, transposed);
  if (!lora.A.trainable && !lora.B.trainable) magnitude.norm = tf.keep(norm);
  return norm;
}

/** The norms [out] of a module's merged weight, W + scaling B A: what a fresh DoRA adapter's magnitude is. */
export function mergedNorm({
  kind,
  weight,
  lora,
}: Pick<Module, 'kind' | 'lora'> & { readonly weight: Tensor }): Tensor1D {
  const transposed = kind === 'embedding';
  return tf.tidy(() => {
    const W = weightMatrix(weight);
    const squares = sumOfSquares(W, transposed);
    if (!lora) return tf.sqrt(squares);
    const [loraA, loraB] = [lora.A, lora.B] as unknown as [Tensor2D, Tensor2D];
    return doraNorm({ W, loraA, loraB, squares }, lora.scaling, transposed);
  });
}

/** peft's names of the adapter tensors that a module can have. */
export function adapterKeys({
  kind,
  name,
}: Pick<Module, 'kind' | 'name'>): Record<'A' | 'B' | 'bias' | 'magnitude' | 'tokens', string> {
  const prefix = `base_model.model.${name}`;
  const [A, B] =
    kind === 'embedding'
      ? [`${prefix}.lora_embedding_A`, `${prefix}.lora_embedding_B`]
      : [`${prefix}.lora_A.weight`, `${prefix}.lora_B.weight`];
  return {
    A,
    B,
    bias: `${prefix}.lora_B.bias`,
    magnitude: `${prefix}.lora_magnitude_vector`,
    tokens: `${prefix}.token_adapter.trainable_tokens_delta`,
  };
}

/** A module's adapter tensors under peft's names. */
export function adapterTensors(module: Module): [string, Variable][] {
  const { lora } = module;
  const keys = adapterKeys(module);
  if (module.kind === 'embedding' && module.tokens) return [[keys.tokens, module.tokens.rows]];
  if (!lora) return [];
  const tensors: [string, Variable][] = [
    [keys.A, lora.A],
    [keys.B, lora.B],
  ];
  if (lora.bias) tensors.push([keys.bias, lora.bias]);
  if (lora.magnitude) tensors.push([keys.magnitude, lora.magnitude.value]);
  return tensors;
}

/** Frees an adapter's tensors on one module. */
export function disposeLora({ A, B, bias, magnitude }: LoraWeights): void {
  for (const tensor of [A, B, bias, magnitude?.value, magnitude?.squares, magnitude?.norm]) tensor?.dispose();
}
