// SPDX-License-Identifier: Apache-2.0
/** The memory that a run will need: its largest step, taken on a device that counts bytes and computes nothing. */
import * as tf from '@tensorflow/tfjs-core';
import {
  type Batch,
  batchesOf,
  collate,
  epochOrder,
  type Sequence,
  type SequenceList,
  tokenCounts,
} from '../datasets/index.ts';
import { LOGITS, onPlannedDevice, type PlannedDevice } from '../src/backends/planned.ts';
import { expectedTensors } from '../src/checkpoint/expected_tensors.ts';
import type { RunConfig } from '../src/config/schema.ts';
import { MambaForCausalLM } from '../src/model/causal_lm.ts';
import type { MambaConfig } from '../src/model/config.ts';
import { MambaModel } from '../src/model/mamba_model.ts';
import type { Tokenizer } from '../src/tokenizer/tokenizer.ts';
import { accumulateGradients, lossTokens, modelBatch, noiseFor } from './accumulate.ts';
import type { TrainedModel } from './full_model.ts';
import { collateWindow } from './loop.ts';
import { attach } from './run.ts';
import { optimizerOf } from './run_optimizer.ts';
import { planOfRun } from './run_plan.ts';

/** Bytes in use at once at the most, and what for. */
export interface PlannedMemory {
  peak_bytes: number;
  base_weights: number;
  /** Parameters that train; those of a whole model are its base weights. */
  adapter: number;
  gradients: number;
  /** AdamW's moments. */
  optimizer: number;
  activations: number;
  /** Working memory of the loss: states of the rows and parts of the gradient; logits are never whole. */
  logits_chunk: number;
  /** The batch itself. */
  other: number;
}

export interface ModulePlan {
  name: string;
  parameters: number;
}

export interface PlannedModel {
  trainable: number;
  all: number;
  /** Of each module that trains. */
  modules: ModulePlan[];
  /** Undefined where no step was asked for, or the native addon is missing. */
  memory?: PlannedMemory;
}

/** The step that needs most memory, and what is evaluated between steps. */
export interface LargestStep {
  examples: SequenceList;
  window: number;
  evalExamples: SequenceList | undefined;
}

export interface PlannedModelOptions {
  model: MambaConfig;
  config: RunConfig;
  tokenizer: Tokenizer;
  padTokenId: number;
  /** To take the step that needs most memory. */
  largest?: LargestStep;
}

/**
 * Attaches a config's adapter to its model without weights, and takes one step.
 * @throws ConfigError for an adapter that does not fit the model
 */
export function planModel(options: PlannedModelOptions): Promise<PlannedModel> {
  const { model: modelConfig, tokenizer, largest } = options;
  return onPlannedDevice((device) => {
    device.setPurpose('base');
    const parameters = new Map(
      Array.from(expectedTensors(modelConfig), ([name, shape]) => [name, device.variable(shape)]),
    );
    const source = { folder: null, name: null, revision: null, fingerprint: null };
    const model = new MambaForCausalLM(new MambaModel(modelConfig, parameters, source));
    try {
      device.setPurpose('adapter');
      const trained = attach(model, withoutInitialization(options.config), tokenizer);
      const { trainable, all } = trained.counts();
      const counted = { trainable, all, modules: modulesOf(trained) };
      return largest && device.runsSteps
        ? { ...counted, memory: memoryOfStep(device, trained, options, largest) }
        : counted;
    } finally {
      model.dispose();
    }
  });
}

/** An initialization that computes with the base's weights would compute with none, and has the same shapes. */
function withoutInitialization(config: RunConfig): RunConfig {
  return { ...config, adapter: { ...config.adapter, init_lora_weights: true, init_from: null } };
}

function modulesOf({ model }: TrainedModel): ModulePlan[] {
  const modules = new Map<string, number>();
  const names = [...model.modules.keys()].sort((a, b) => b.length - a.length);
  for (const [key, { size }] of model.trainableParameters()) {
    const plain = key.replace(/^base_model\.model\./, '');
    const name = names.find((module) => plain.startsWith(`${module}.`)) ?? plain;
    modules.set(name, (modules.get(name) ?? 0) + size);
  }
  return Array.from(modules, ([name, parameters]) => ({ name, parameters }));
}

function memoryOfStep(
  device: PlannedDevice,
  { model }: TrainedModel,
  { config, padTokenId }: PlannedModelOptions,
  { examples, window, evalExamples }: LargestStep,
): PlannedMemory {
  const settings = config.trainer;
  model.gradientCheckpointing = settings.gradient_checkpointing;
  const parameters = model.trainableParameters();
  device.setPurpose('optimizer');
  const optimizer = optimizerOf(settings, parameters);
  const plan = planOfRun({ trainExamples: examples, settings, shuffle: config.data.shuffle });
  const made = collateWindow({ examples, padTokenId }, plan.window(window).batches);
  const {
    seed,
    label_smoothing_factor: labelSmoothing,
    z_loss: zLoss,
    neftune_noise_alpha: neftuneNoiseAlpha,
  } = settings;
  try {
    tf.tidy(() => {
      device.setPurpose('other');
      const uploaded = made.map((batch, i) => {
        const embeddingNoise = noiseFor({ model, seed, neftuneNoiseAlpha }, batch, i);
        return model.upload({ ...modelBatch(batch), ...(embeddingNoise && { embeddingNoise }) });
      });
      const upstream = tf.scalar(1 / lossTokens(made));
      device.setPurpose('activations');
      const { gradients } = accumulateGradients(
        { model, loss: { labelSmoothing, zLoss } },
        parameters,
        uploaded,
        upstream,
        made.map((_, step) => ({ seed, step })),
      );
      device.mark(gradients.values(), 'gradients');
      optimizer.update(gradients, settings.learning_rate);
    });
    model.setDropout(null);
    if (evalExamples) {
      const { lossSum, count } = model.lossSum(
        modelBatch(largestEvalBatch(evalExamples, settings.per_device_eval_batch_size)),
      );
      tf.dispose([lossSum, count]);
    }
  } finally {
    optimizer.dispose();
  }
  return memoryOf(device);
}

/** The batch of an evaluation that has most positions. */
function largestEvalBatch(examples: SequenceList, batchSize: number): Batch {
  const counts = tokenCounts(examples);
  const positions = (indices: Uint32Array) => indices.length * Math.max(...Array.from(indices, (i) => counts[i] ?? 0));
  const largest = batchesOf(epochOrder(examples.length, 0, 0, false), batchSize).reduce((best, indices) =>
    positions(indices) > positions(best) ? indices : best,
  );
  return collate(
    Array.from(largest, (index) => examples.at(index) as Sequence),
    0,
  );
}

function memoryOf(device: PlannedDevice): PlannedMemory {
  const { bytes, byPurpose } = device.peak();
  const of = (purpose: string) => byPurpose.get(purpose) ?? 0;
  return {
    peak_bytes: bytes,
    base_weights: of('base'),
    adapter: of('adapter'),
    gradients: of('gradients'),
    optimizer: of('optimizer'),
    activations: of('activations'),
    logits_chunk: of(LOGITS),
    other: of('other'),
  };
}
