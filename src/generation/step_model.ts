// SPDX-License-Identifier: Apache-2.0
/** A model as the fused step takes it, where it is one that the fused step knows. */
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { hasMambaStep, type StepLayer, type StepLinear, type StepModel } from '../backends/mamba_step.ts';
import type { MambaForCausalLM } from '../model/causal_lm.ts';
import { type MambaLayer, stateDecay } from '../model/mixer.ts';
import {
  biasOf,
  type ConvModule,
  convWeightOf,
  embeddingMatrix,
  type LinearModule,
  type Module,
} from '../model/modules.ts';
import { HEAD } from '../model/parameters.ts';

/** The fields of a layer, a module and an adapter that the fused step computes with; a layer with others goes op by op. */
const KNOWN = {
  layer: ['norm', 'eps', 'inProj', 'conv1d', 'xProj', 'dtProj', 'aLog', 'frozenA', 'd', 'outProj', 'modules'],
  module: ['kind', 'name', 'index', 'weight', 'bias', 'lora', 'tokens'],
  lora: ['A', 'B', 'bias', 'scaling', 'dropout'],
};

/**
 * The model's parameters and adapters for {@link createMambaStep}; undefined when the backend has no fused step, or not for this
 * model.
 * @param keep called with the tensors made for it, which the caller disposes of
 */
export function stepModelOf(model: MambaForCausalLM, keep: (tensor: Tensor) => void): StepModel | undefined {
  const { embeddings, layers, normF, eps } = model.backbone.layers;
  const isKnown =
    layers.every((layer) => hasOnly(layer, KNOWN.layer)) &&
    [embeddings, ...layers.flatMap(({ modules }) => modules)].every(isKnownModule);
  if (!hasMambaStep() || !isKnown) return undefined;
  const make = <T extends Tensor>(f: () => T): T => {
    const tensor = tf.keep(tf.tidy(f));
    keep(tensor);
    return tensor;
  };
  const matrix = embeddings.tokens && make(() => tf.clone(embeddingMatrix(embeddings)));
  return {
    embeddings: { weight: matrix ?? embeddings.weight, bias: null, lora: embeddings.lora },
    layers: layers.map((layer) => layerOf(layer, make)),
    normF,
    head: matrix && !model.parameters.has(HEAD) ? matrix : model.head,
    eps,
    isBfloat16: model.dtype === 'bfloat16',
  };
}

/** A tensor made for the step. */
type Make = <T extends Tensor>(f: () => T) => T;

function layerOf(layer: MambaLayer, make: Make): StepLayer {
  const { norm, conv1d, d: D } = layer;
  return {
    norm,
    inProj: linearOf(layer.inProj, make),
    convWeight: conv1d.lora ? make(() => convWeightOf(conv1d)) : conv1d.weight,
    convBias: currentBias(conv1d, make),
    xProj: linearOf(layer.xProj, make),
    dtProj: linearOf(layer.dtProj, make),
    A: make(() => tf.clone(stateDecay(layer))),
    D,
    outProj: linearOf(layer.outProj, make),
  };
}

function linearOf(module: LinearModule, make: Make): StepLinear {
  return { weight: module.weight, bias: currentBias(module, make), lora: module.lora };
}

function currentBias(module: LinearModule | ConvModule, make: Make): Tensor | null {
  return module.lora?.bias ? make(() => biasOf(module) as Tensor) : module.bias;
}

/** A convolution's adapter is merged, of whatever kind it is. */
function isKnownModule(module: Module): boolean {
  const { lora } = module;
  return hasOnly(module, KNOWN.module) && (!lora || module.kind === 'conv1d' || hasOnly(lora, KNOWN.lora));
}

/** Whether what an object has beside these fields is absent or off. */
function hasOnly(object: object, known: readonly string[]): boolean {
  return Object.entries(object).every(([field, value]) => known.includes(field) || !value);
}
