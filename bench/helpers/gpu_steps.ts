// SPDX-License-Identifier: Apache-2.0
/** Train steps on the GPU as the trainer takes them, recorded as graphs, on random models of the published sizes. */
import * as tf from '@tensorflow/tfjs-core';
import { getPeftModel, LoraConfig } from '../../adapters/index.ts';
import type { Batch } from '../../datasets/index.ts';
import { expectedTensors } from '../../src/checkpoint/expected_tensors.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { MambaConfig } from '../../src/model/config.ts';
import { initialTensors } from '../../src/model/init.ts';
import { MambaModel } from '../../src/model/mamba_model.ts';
import { createRandom } from '../../src/random.ts';
import { createCoverage } from '../../trainer/coverage.ts';
import { createAdamw } from '../../trainer/optimizer.ts';
import { createStepper } from '../../trainer/step.ts';

/** d_model, n_layer of the published sizes. */
const SIZES: Record<string, [number, number]> = { '130m': [768, 24], '1.4b': [2048, 48], '2.8b': [2560, 64] };
const VOCAB_SIZE = 50280;
/** Rows of the embedding that are drawn. */
const DRAWN_ROWS = 1000;

/**
 * A random model of a published size whose layers are all copies of the first, and whose embedding repeats a thousand rows: drawing
 * billions of numbers one by one takes minutes, and no kernel's time depends on them.
 */
export function copiedModel(name: string): MambaForCausalLM {
  const [hiddenSize, numHiddenLayers] = SIZES[name] ?? [0, 0];
  const config = new MambaConfig({ vocabSize: VOCAB_SIZE, hiddenSize, numHiddenLayers });
  const small = new MambaConfig({ vocabSize: DRAWN_ROWS, hiddenSize, numHiddenLayers: 1 });
  const drawn = new Map(Array.from(initialTensors(small, 0), (each) => [each.name, each] as const));
  const parameters = new Map<string, tf.Variable>();
  for (const [tensorName, shape] of expectedTensors(config)) {
    const source = drawn.get(tensorName.replace(/\.layers\.\d+\./, '.layers.0.'));
    if (!source) throw new Error(`the bench's model has no tensor like ${tensorName}`);
    parameters.set(
      tensorName,
      tf.tidy(() => tf.variable(repeatRows(tf.tensor(source.data, source.shape), shape), false)),
    );
  }
  return new MambaForCausalLM(
    new MambaModel(config, parameters, { folder: null, name: null, revision: null, fingerprint: null }),
  );
}

function repeatRows(block: tf.Tensor, shape: number[]): tf.Tensor {
  const [rows = 0, ...rest] = shape;
  const drawn = block.shape[0] as number;
  if (drawn === rows) return block;
  const repeated = tf.tile(block, [Math.ceil(rows / drawn), ...rest.map(() => 1)]);
  return tf.slice(repeated, 0, rows);
}

export interface StepperOptions {
  batch: number;
  seqlen: number;
  /** Record the steps. Default true. */
  cudaGraphs?: boolean;
}

/**
 * A LoRA of r 8 on x_proj, embeddings, in_proj, out_proj. Steps until the gradients' coverage is complete, and once more, so that
 * every later call is the same work.
 * @returns one step of the trainer; waits for its loss
 */
export function trainerStep(model: MambaForCausalLM, { batch, seqlen, cudaGraphs = true }: StepperOptions) {
  getPeftModel(model, new LoraConfig({ r: 8 }));
  const parameters = model.trainableParameters();
  const settings = { beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0, maxGradNorm: 1 };
  const optimizer = createAdamw(parameters, settings);
  const coverage = createCoverage(parameters);
  const stepper = createStepper({ model, optimizer, coverage, seed: 0, cudaGraphs });
  const random = createRandom({ seed: 0 });
  const inputIds = Int32Array.from({ length: batch * seqlen }, () => random.below(model.config.vocabSize));
  const attentionMask = new Int32Array(batch * seqlen).fill(1);
  const rows: Batch = { inputIds, labels: inputIds, attentionMask, batch, seqlen, tokens: batch * (seqlen - 1) };
  let step = 0;
  const run = (): number => {
    step += 1;
    const outcome = stepper.run({ step, firstBatch: step, batches: [rows], learningRate: 2e-4 });
    if (outcome.failure) throw new Error(`the bench's step failed: ${outcome.failure}`);
    return outcome.loss;
  };
  while (!coverage.isComplete()) run();
  run();
  run();
  return { run, parameters, dispose: () => stepper.dispose() };
}
