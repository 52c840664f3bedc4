// SPDX-License-Identifier: Apache-2.0
/** Train steps of the seed recipe's targets, as the trainer's loop runs them, on random tokens. */
import * as tf from '@tensorflow/tfjs-core';
import { getPeftModel, LoraConfig } from '../../adapters/index.ts';
import { valueAndGradients } from '../../src/autograd/index.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { MambaConfig } from '../../src/model/config.ts';
import type { WeightDtype } from '../../src/model/parameters.ts';
import { createRandom } from '../../src/random.ts';
import { createAdamw } from '../../trainer/optimizer.ts';
import { isOnGpu } from './report.ts';

/** Random models in the shapes of the published ones: d_model, n_layer. */
const SIZES: Record<string, [number, number]> = { '130m': [768, 24], '370m': [1024, 48], '790m': [1536, 48] };

/** `mamba-5m`, or a random model of a published size. */
export async function benchModel(name: string, dtype: WeightDtype = 'float32'): Promise<MambaForCausalLM> {
  const size = SIZES[name];
  if (!size) return MambaForCausalLM.fromPretrained(`models/${name}`, { backend: isOnGpu ? 'cuda' : 'native', dtype });
  const [hiddenSize, numHiddenLayers] = size;
  return MambaForCausalLM.fromConfig(new MambaConfig({ vocabSize: 50280, hiddenSize, numHiddenLayers }), { dtype });
}

/** A model with a LoRA of r 8 on x_proj, embeddings, in_proj, out_proj; returns one forward, backward, clipping and AdamW. */
export function trainStep(model: MambaForCausalLM, batch: number, seqlen: number): () => number {
  getPeftModel(model, new LoraConfig({ r: 8 }));
  const parameters = model.trainableParameters();
  const [names, leaves] = [[...parameters.keys()], [...parameters.values()]];
  const optimizer = createAdamw(parameters, { beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0, maxGradNorm: 1 });
  const random = createRandom({ seed: 0 });
  const inputIds = Int32Array.from({ length: batch * seqlen }, () => random.below(model.config.vocabSize));
  const upstreamOf = () => [tf.scalar(1 / (batch * (seqlen - 1)))];
  return () =>
    tf.tidy(() => {
      const forward = () => model.lossSum({ inputIds, labels: inputIds, batch, seqlen }).lossSum;
      const { value, gradients } = valueAndGradients(forward, leaves, { upstream: upstreamOf() });
      const byName = new Map(names.map((name, i) => [name, gradients[i] as tf.Tensor]));
      optimizer.update(byName, 2e-3).dataSync();
      return value.dataSync<'float32'>()[0] as number;
    });
}

/** `4x64` as batch and seqlen. */
export function parseShape(text: string): [batch: number, seqlen: number] {
  const [batch, seqlen] = text.split('x').map(Number) as [number, number];
  return [batch, seqlen];
}
