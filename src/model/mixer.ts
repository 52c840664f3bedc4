// SPDX-License-Identifier: Apache-2.0
/**
 * One Mamba layer: norm, then the mixer (Gu and Dao 2023, figure 3); answers to MambaBlock and MambaMixer of transformers.
 * In falcon_mamba (Zuo et al. 2024) dt, B and C pass an RMS norm without weights before they are used; FalconMambaMixer.
 *
 *   batch, seqlen    positions of a row of tokens
 *   d_model          width of the residual stream           d_inner   width inside the mixer, expand * d_model
 *   d_state          states a channel                       d_conv    taps of the convolution
 *   dt_rank          rank of the step size's projection     x, z      the mixer's input and its gate
 *   delta            step size, softplus(dt_proj(dt) + bias)
 *   A = -exp(A_log)  state decay                            B, C      input-dependent state input and readout       D   skip
 */
import type { Tensor, Tensor1D, Tensor2D, Tensor3D, Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { hasMambaBlock, mambaBlock } from '../ops/mamba_block.ts';
import { mambaLayerStep } from '../ops/mamba_layer_step.ts';
import { rmsNorm } from '../ops/rms_norm.ts';
import { selectiveScan } from '../ops/selective_scan.ts';
import { splitChannels } from '../ops/split_channels.ts';
import type { ConvModule, DropoutState, LinearModule } from './modules.ts';
import { applyConv, applyLinear, biasOf, convWeightOf, dropoutStepOf, linearOperands } from './modules.ts';

export interface MambaLayer {
  readonly norm: Variable;
  readonly eps: number;
  /** Of falcon_mamba's weightless RMS norms of dt, B and C; null where these are not normalised. */
  readonly scanInputEps: number | null;
  readonly inProj: LinearModule;
  readonly conv1d: ConvModule;
  readonly xProj: LinearModule;
  readonly dtProj: LinearModule;
  /** [d_inner, d_state] */
  readonly aLog: Variable;
  /** -exp(A_log), kept while A_log does not train, with the A_log that it is of. */
  frozenA: { A: Tensor2D; of: Variable } | null;
  readonly d: Variable;
  readonly outProj: LinearModule;
  /** The modules above, in the order of the forward pass. */
  readonly modules: readonly (LinearModule | ConvModule)[];
}

/** What is the same for all layers of one forward. */
export interface MixerContext {
  /** [batch, seqlen, 1], 0 at padding; null: no padding that matters. */
  mask: Tensor3D | null;
  /** Document of each position [batch, seqlen] for packed rows. */
  seqIdx: Tensor2D | null;
  dropout: DropoutState;
  /** Write the state after the last position over the one given. */
  updateState: boolean;
}

/** State of one layer between two calls of a forward. */
export type LayerState = {
  /** The last d_conv - 1 inputs of the convolution [batch, d_conv - 1, d_inner]. */
  conv: Tensor3D;
  /** [batch, d_inner, d_state] */
  ssm: Tensor3D;
};

export type LayerResult = {
  /** The mixer's output, not yet added to the residual [batch, seqlen, d_model]. */
  hidden: Tensor;
  /** The residual stream that it is to be added to. */
  residual: Tensor;
  state?: LayerState;
};

/**
 * Runs one layer.
 *
 * @param hidden the previous layer's `hidden`, or the embeddings
 * @param residual the previous layer's `residual`; null for the first layer
 * @param state to continue from; null for the beginning of a text
 * @param keepState also return the state after the last position
 */
export function runLayer(
  layer: MambaLayer,
  hidden: Tensor,
  residual: Tensor | null,
  context: MixerContext,
  state: LayerState | null,
  keepState: boolean,
): LayerResult {
  const { mask, seqIdx, dropout, updateState } = context;
  if (!mask && !keepState && isFusible(layer)) {
    if (!state) return runFused(layer, hidden, residual, context);
    if (updateState && !seqIdx && !dropout && hidden.shape[1] === 1) return runStep(layer, hidden, residual, state);
  }
  const normed = rmsNorm({ x: hidden, weight: layer.norm as unknown as Tensor1D, residual }, layer.eps);
  const mixed = runMixer(layer, normed.y, context, state, keepState);
  return { hidden: mixed.out, residual: normed.residualOut, ...(mixed.state && { state: mixed.state }) };
}

function runMixer(
  layer: MambaLayer,
  input: Tensor,
  context: MixerContext,
  state: LayerState | null,
  keepState: boolean,
) {
  const { dropout, mask, seqIdx, updateState } = context;
  const dInner = layer.conv1d.weight.shape[0] as number;
  const dState = layer.aLog.shape[1] as number;
  const dtRank = layer.dtProj.weight.shape[1] as number;

  const [x, z] = splitChannels(applyLinear(layer.inProj, input, dropout), [dInner, dInner]) as [Tensor, Tensor];
  const conv = applyConv(
    layer.conv1d,
    { x: (mask ? tf.mul(x, mask) : x) as Tensor3D, seqIdx, convState: state?.conv },
    dropout,
    { returnLastState: keepState, updateState },
  );
  const u = mask ? tf.mul(conv.y, mask) : conv.y;
  const split = splitChannels(applyLinear(layer.xProj, u, dropout), [dtRank, dState, dState]);
  const [dt, B, C] = normalise(split, layer.scanInputEps) as [Tensor, Tensor3D, Tensor3D];
  const scan = selectiveScan(
    {
      u: u as Tensor3D,
      delta: applyLinear(layer.dtProj, dt, dropout, false) as Tensor3D,
      A: stateDecay(layer),
      B,
      C,
      D: layer.d as unknown as Tensor1D,
      z: z as Tensor3D,
      deltaBias: biasOf(layer.dtProj),
      seqIdx,
      h0: state?.ssm,
    },
    { returnLastState: keepState, updateState },
  );
  const out = applyLinear(layer.outProj, scan.out, dropout);
  const after = conv.lastConvState && scan.lastState ? { conv: conv.lastConvState, ssm: scan.lastState } : undefined;
  return { out, state: after };
}

function normalise(tensors: Tensor[], eps: number | null): Tensor[] {
  return eps === null ? tensors : tensors.map((x) => rmsNorm({ x }, eps).y);
}

/** Whether the layer can run as one op: what is not a plain adapter on a projection is frozen, and it is no FalconMamba's. */
function isFusible({ norm, conv1d, aLog, d, inProj, xProj, dtProj, outProj, scanInputEps }: MambaLayer): boolean {
  const linears = [inProj, xProj, dtProj, outProj];
  const base = [norm, aLog, d, ...[conv1d, ...linears].flatMap(({ weight, bias }) => [weight, bias])];
  const plain = linears.every(({ lora }) => !lora?.magnitude && !lora?.bias);
  return (
    hasMambaBlock() && scanInputEps === null && plain && !conv1d.lora && !base.some((variable) => variable?.trainable)
  );
}

function runFused(layer: MambaLayer, hidden: Tensor, residual: Tensor | null, context: MixerContext): LayerResult {
  const { seqIdx, dropout } = context;
  const { out, residualOut } = mambaBlock(
    { ...layerOperands(layer, hidden, residual, dropout), seqIdx, dropoutStep: dropoutStepOf(dropout) },
    { eps: layer.eps, ...(dropout && { seed: dropout.seed }) },
  );
  return { hidden: out, residual: residualOut };
}

/** One position, with the state updated in place. */
function runStep(layer: MambaLayer, hidden: Tensor, residual: Tensor | null, state: LayerState): LayerResult {
  const { out, residualOut } = mambaLayerStep(
    { ...layerOperands(layer, hidden, residual, null), convState: state.conv, ssmState: state.ssm },
    { eps: layer.eps },
  );
  return { hidden: out, residual: residualOut };
}

function layerOperands(layer: MambaLayer, hidden: Tensor, residual: Tensor | null, dropout: DropoutState) {
  const linear = (module: LinearModule) => ({ ...linearOperands(module, dropout), bias: biasOf(module) });
  return {
    hidden: hidden as Tensor3D,
    residual: residual as Tensor3D | null,
    norm: layer.norm as unknown as Tensor1D,
    convWeight: convWeightOf(layer.conv1d),
    convBias: biasOf(layer.conv1d),
    A: stateDecay(layer),
    D: layer.d as unknown as Tensor1D,
    inProj: linear(layer.inProj),
    xProj: linear(layer.xProj),
    dtProj: linear(layer.dtProj),
    outProj: linear(layer.outProj),
  };
}

/** A of a layer: -exp(A_log). While A_log does not train, it is the layer's to keep. */
export function stateDecay(layer: MambaLayer): Tensor2D {
  const { aLog, frozenA } = layer;
  const compute = () => tf.neg(tf.exp(aLog)) as Tensor2D;
  if (aLog.trainable) return compute();
  if (frozenA?.of === aLog) return frozenA.A;
  frozenA?.A.dispose();
  const A = tf.keep(tf.tidy(compute));
  layer.frozenA = { A, of: aLog };
  return A;
}
