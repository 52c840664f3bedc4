// SPDX-License-Identifier: Apache-2.0
/** Mamba without the head: embeddings, layers, final norm; answers to MambaModel of transformers. */
import type { Tensor, Tensor1D, Tensor2D, Tensor3D, Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { checkpoint } from '../autograd/index.ts';
import { rmsNorm } from '../ops/rms_norm.ts';
import type { MambaConfig } from './config.ts';
import type { LayerResult, LayerState, MambaLayer, MixerContext } from './mixer.ts';
import { runLayer } from './mixer.ts';
import type { ConvModule, DropoutState, EmbeddingModule, LinearModule, Module } from './modules.ts';
import { adapterTensors, applyEmbedding } from './modules.ts';
import type { Parameters } from './parameters.ts';

export interface Backbone {
  readonly embeddings: EmbeddingModule;
  readonly layers: readonly MambaLayer[];
  readonly normF: Variable;
  readonly eps: number;
}

/** State of a text between two forwards, one entry a layer. */
export interface MambaCache {
  /** The last d_conv - 1 inputs of each convolution [batch, d_conv - 1, d_inner]. */
  readonly convStates: readonly Tensor3D[];
  /** [batch, d_inner, d_state] */
  readonly ssmStates: readonly Tensor3D[];
  dispose(): void;
}

export interface BackboneInputs {
  /** int32 [batch, seqlen]; or `inputsEmbeds`. */
  inputIds?: Tensor2D | undefined;
  /** [batch, seqlen, d_model] in place of looking ids up. */
  inputsEmbeds?: Tensor3D | undefined;
  /** [batch, seqlen, d_model], added to the embeddings. */
  embeddingNoise?: Tensor3D;
  /** [batch, seqlen, 1], 0 at padding. */
  mask?: Tensor3D | null;
  /** int32 [batch, seqlen]: document of each position of packed rows. */
  seqIdx?: Tensor2D | null;
  cache?: MambaCache | undefined;
  useCache?: boolean;
  /** Write the state after the last position over `cache`. */
  updateCache?: boolean;
  outputHiddenStates?: boolean;
  dropout: DropoutState;
  gradientCheckpointing: boolean;
}

export interface BackboneResult {
  /** After norm_f: [batch, seqlen, d_model]. */
  hidden: Tensor3D;
  /** The output of each layer, then of norm_f. */
  hiddenStates?: Tensor3D[];
  cache?: MambaCache;
}

/** Assembles the layers over their parameters, which they look up each time: another variable may come in a parameter's place. */
export function buildBackbone(config: MambaConfig, parameters: Parameters): Backbone {
  return {
    embeddings: {
      kind: 'embedding',
      name: 'backbone.embeddings',
      index: 0,
      get weight() {
        return parameterOf(parameters, 'backbone.embeddings.weight');
      },
      lora: null,
      tokens: null,
    },
    layers: Array.from({ length: config.numHiddenLayers }, (_, i) => buildLayer(config, parameters, i)),
    get normF() {
      return parameterOf(parameters, 'backbone.norm_f.weight');
    },
    eps: config.layerNormEpsilon,
  };
}

/** The layer at position `i`, over its parameters. */
export function buildLayer(config: MambaConfig, parameters: Parameters, i: number): MambaLayer {
  const prefix = `backbone.layers.${i}`;
  const mixer = `${prefix}.mixer`;
  const count = 5;
  const module = <Kind extends 'linear' | 'conv1d'>(kind: Kind, name: string, position: number) => ({
    kind,
    name: `${mixer}.${name}`,
    index: 1 + i * count + position,
    get weight() {
      return parameterOf(parameters, `${mixer}.${name}.weight`);
    },
    get bias() {
      return parameters.get(`${mixer}.${name}.bias`) ?? null;
    },
    lora: null,
  });
  const inProj: LinearModule = module('linear', 'in_proj', 0);
  const conv1d: ConvModule = module('conv1d', 'conv1d', 1);
  const xProj: LinearModule = module('linear', 'x_proj', 2);
  const dtProj: LinearModule = module('linear', 'dt_proj', 3);
  const outProj: LinearModule = module('linear', 'out_proj', 4);
  return {
    get norm() {
      return parameterOf(parameters, `${prefix}.norm.weight`);
    },
    eps: config.layerNormEpsilon,
    scanInputEps: config.modelType === 'falcon_mamba' ? config.mixerRmsEps : null,
    inProj,
    conv1d,
    xProj,
    dtProj,
    get aLog() {
      return parameterOf(parameters, `${mixer}.A_log`);
    },
    frozenA: null,
    get d() {
      return parameterOf(parameters, `${mixer}.D`);
    },
    outProj,
    modules: [inProj, conv1d, xProj, dtProj, outProj],
  };
}

function parameterOf(parameters: Parameters, name: string): Variable {
  const found = parameters.get(name);
  if (!found) throw new Error(`the model has no parameter ${name}`);
  return found;
}

/** Every module that an adapter can attach to, by name, in the model's order. */
export function modulesOf(backbone: Backbone): Map<string, Module> {
  const modules: Module[] = [backbone.embeddings, ...backbone.layers.flatMap((layer) => layer.modules)];
  return new Map(modules.map((module) => [module.name, module]));
}

/** Runs the backbone. To be called inside a tidy; what is returned is all that should survive it. */
export function runBackbone(backbone: Backbone, inputs: BackboneInputs): BackboneResult {
  const context: MixerContext = {
    mask: inputs.mask ?? null,
    seqIdx: inputs.seqIdx ?? null,
    dropout: inputs.dropout,
    updateState: inputs.updateCache ?? false,
  };
  const states: LayerState[] = [];
  const layerOutputs: Tensor[] = [];
  let hidden: Tensor = inputs.inputsEmbeds ?? applyEmbedding(backbone.embeddings, inputs.inputIds as Tensor2D);
  if (inputs.embeddingNoise) {
    const noisy = tf.add(hidden, inputs.embeddingNoise);
    disposeConsumed([hidden], [inputs.inputsEmbeds]);
    hidden = noisy;
  }
  let residual: Tensor | null = null;
  for (const [i, layer] of backbone.layers.entries()) {
    const result: LayerResult = inputs.gradientCheckpointing
      ? checkpointedLayer(layer, hidden, residual, context)
      : runFreshLayer(layer, hidden, residual, context, stateAt(inputs.cache, i), inputs.useCache ?? false);
    if (!inputs.outputHiddenStates) disposeConsumed([hidden, residual], [result.residual, inputs.inputsEmbeds]);
    ({ hidden, residual } = result);
    if (i > 0 && inputs.outputHiddenStates) layerOutputs.push(residual);
    if (result.state) states.push(result.state);
  }
  const last = rmsNorm({ x: hidden, weight: backbone.normF as unknown as Tensor1D, residual }, backbone.eps);
  return {
    hidden: last.y as Tensor3D,
    ...(inputs.outputHiddenStates && { hiddenStates: [...layerOutputs, last.residualOut, last.y] as Tensor3D[] }),
    ...(inputs.useCache && { cache: makeCache(states) }),
  };
}

/** Frees what the next layer will not read. */
function disposeConsumed(consumed: (Tensor | null)[], kept: (Tensor | undefined)[]): void {
  for (const tensor of consumed) if (tensor && !kept.includes(tensor)) tensor.dispose();
}

/** A layer with everything but its result freed. */
function runFreshLayer(
  layer: MambaLayer,
  hidden: Tensor,
  residual: Tensor | null,
  context: MixerContext,
  state: LayerState | null,
  keepState: boolean,
): LayerResult {
  return tf.tidy(
    () => runLayer(layer, hidden, residual, context, state, keepState) as unknown as tf.TensorContainer,
  ) as unknown as LayerResult;
}

/** A layer whose activations are recomputed in the backward. */
function checkpointedLayer(
  layer: MambaLayer,
  hidden: Tensor,
  residual: Tensor | null,
  context: MixerContext,
): LayerResult {
  const { mask, seqIdx, dropout } = context;
  const segment = (x: Tensor, ...others: Tensor[]): Tensor[] => {
    const next = () => others.shift() as Tensor;
    const r = residual && next();
    const again: MixerContext = {
      mask: mask && (next() as Tensor3D),
      seqIdx: seqIdx && (next() as Tensor2D),
      dropout,
      updateState: false,
    };
    const result = runLayer(layer, x, r, again, null, false);
    return r ? [result.hidden, result.residual] : [result.hidden];
  };
  const inputs = [hidden, residual, mask, seqIdx].filter((tensor) => tensor !== null);
  const outputs = checkpoint(segment, inputs, trainablesOf(layer));
  return { hidden: outputs[0] as Tensor, residual: outputs[1] ?? hidden };
}

function trainablesOf(layer: MambaLayer): Variable[] {
  const own = [layer.norm, layer.aLog, layer.d];
  const ofModules = layer.modules.flatMap((module) => [
    module.weight,
    module.bias,
    ...adapterTensors(module).map(([, tensor]) => tensor),
  ]);
  return [...own, ...ofModules].filter((variable): variable is Variable => variable?.trainable ?? false);
}

function stateAt(cache: MambaCache | undefined, layer: number): LayerState | null {
  if (!cache) return null;
  return { conv: cache.convStates[layer] as Tensor3D, ssm: cache.ssmStates[layer] as Tensor3D };
}

function makeCache(states: LayerState[]): MambaCache {
  const convStates = states.map((state) => tf.keep(state.conv));
  const ssmStates = states.map((state) => tf.keep(state.ssm));
  return makeState(convStates, ssmStates);
}

/** A state that owns these tensors. */
export function makeState(convStates: Tensor3D[], ssmStates: Tensor3D[]): MambaCache {
  return { convStates, ssmStates, dispose: () => tf.dispose([convStates, ssmStates]) };
}

/** A copy of the state of the first `count` rows of a batch. */
export function firstRows(cache: MambaCache, count: number): MambaCache {
  const cut = (state: Tensor3D) => tf.slice(state, [0, 0, 0], [count, -1, -1]);
  const states = cache.convStates.map((conv, i) => ({ conv: cut(conv), ssm: cut(cache.ssmStates[i] as Tensor3D) }));
  return makeCache(states);
}
