// SPDX-License-Identifier: Apache-2.0
/** First values of a fresh adapter; answers to reset_lora_parameters and the *_init of peft's lora layers. */
import * as tf from '@tensorflow/tfjs-core';
import { Matrix, QrDecomposition } from 'ml-matrix';
import { ConfigError } from '../src/errors.ts';
import type { MambaForCausalLM } from '../src/model/causal_lm.ts';
import { type LoraWeights, type Module, matrixShape, mergedNorm } from '../src/model/modules.ts';
import { createRandom, type Random, randomStreams } from '../src/random.ts';
import type { LoraConfig } from './lora_config.ts';
import {
  checkPrincipalRank,
  type Factors,
  principalFactors,
  principalInitOf,
  residualWeight,
  type WeightPart,
  weightPart,
} from './principal_factors.ts';

/** @throws ConfigError when a module cannot begin as init_lora_weights says */
export function checkInitialization(targets: readonly Module[], config: LoraConfig): void {
  for (const module of targets) {
    const { kind, name, weight } = module;
    const r = config.rankOf(name);
    const init = principalInitOf(module, config);
    if (init) checkPrincipalRank(init, name, matrixShape(weight.shape), r);
    if (config.initLoraWeights === 'orthogonal' && kind !== 'embedding' && r % 2 !== 0)
      throw new ConfigError(`init_lora_weights: orthogonal needs an even rank, and that of ${name} is ${r}.`);
  }
}

/** Draws the values of a fresh adapter's tensors, one after the other. Those that depend on the weight come later. */
export function createDraw(config: LoraConfig, seed: number): (key: string, shape: number[]) => tf.Tensor {
  let substream = 0;
  return (key, shape) => {
    if (key.endsWith('.lora_magnitude_vector')) return tf.zeros(shape);
    const random = createRandom({ seed, stream: randomStreams.init, substream: substream++ });
    const next = initialValue(key, shape, config, random);
    return tf.tensor(Float32Array.from({ length: tf.util.sizeFromShape(shape) }, next), shape);
  };
}

function initialValue(key: string, shape: number[], config: LoraConfig, random: Random): () => number {
  const { initLoraWeights, r } = config;
  const rank = shape[key.endsWith('_B.weight') ? 1 : 0] ?? r;
  const uniform = () => (2 * random.uniform() - 1) / Math.sqrt(shape[1] ?? r);
  if (key.endsWith('.lora_embedding_A')) return initLoraWeights === false ? () => random.normal() : () => 0;
  if (key.endsWith('.lora_embedding_B')) return () => random.normal();
  if (/\.lora_B\.(?:weight|bias)$/.test(key)) return initLoraWeights === false ? uniform : () => 0;
  return initLoraWeights === 'gaussian' ? () => random.normal() / rank : uniform;
}

/** Gives a fresh adapter the values that depend on the weights it adapts; in place, on the attached adapter. */
export function initializeFromWeights(model: MambaForCausalLM, config: LoraConfig, seed: number): void {
  const { initLoraWeights: init } = config;
  for (const module of model.modules.values()) {
    const { lora } = module;
    if (!lora) continue;
    if (module.kind !== 'embedding' && init === 'orthogonal') assign(lora, orthogonalFactors(module, seed));
    const part = principalPart(module, config);
    if (part) {
      const factors = principalFactors(part);
      assign(lora, factors);
      replaceWeight(model, module, residualWeight(part, factors));
    }
    const { magnitude } = lora;
    if (magnitude) tf.tidy(() => magnitude.value.assign(mergedNorm(module)));
  }
}

/** Takes out of the weights what a stored adapter's init_lora_weights took out when its training began. */
export function removePrincipalParts(model: MambaForCausalLM, config: LoraConfig): void {
  for (const module of model.modules.values()) {
    const part = module.lora && principalPart(module, config);
    if (part) replaceWeight(model, module, residualWeight(part));
  }
}

function principalPart(module: Module, config: LoraConfig): WeightPart | null {
  const init = principalInitOf(module, config);
  return init && weightPart(module, config, init, module.weight.dataSync<'float32'>());
}

function replaceWeight(model: MambaForCausalLM, module: Module, values: Float32Array): void {
  const variable = tf.tidy(() => tf.variable(tf.tensor(values, module.weight.shape), false));
  model.backbone.replaceParameter(`${module.name}.weight`, variable);
}

function assign({ A, B }: LoraWeights, factors: Factors): void {
  tf.tidy(() => {
    A.assign(tf.tensor(factors.A, A.shape));
    B.assign(tf.tensor(factors.B, B.shape));
  });
}

/** A and B in subspaces of the rank that are orthogonal to each other, so that B A is 0 and both have values to learn from. */
function orthogonalFactors({ lora, index }: Module, seed: number): Factors {
  const { A, B } = lora as LoraWeights;
  const [r, inFeatures] = A.shape as [number, number];
  const out = B.shape[0] as number;
  const random = createRandom({ seed, stream: randomStreams.init, substream: ORTHOGONAL_SUBSTREAM + index });
  const normal = (rows: number, columns: number) =>
    Matrix.from1DArray(
      rows,
      columns,
      Array.from({ length: rows * columns }, () => random.normal()),
    );
  const Q = new QrDecomposition(normal(r, r)).orthogonalMatrix;
  const every = (first: number) =>
    Q.selection(
      Array.from({ length: r / 2 }, (_, i) => 2 * i + first),
      [...Array(r).keys()],
    );
  const ofA = normal(inFeatures, r / 2)
    .mmul(every(0))
    .transpose()
    .div(10);
  const ofB = normal(out, r / 2)
    .mmul(every(1))
    .div(10);
  return { A: Float32Array.from(ofA.to1DArray()), B: Float32Array.from(ofB.to1DArray()) };
}

/** Beyond the substreams that {@link createDraw} takes. */
const ORTHOGONAL_SUBSTREAM = 2 ** 20;
