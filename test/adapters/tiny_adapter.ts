// SPDX-License-Identifier: Apache-2.0
/** A model small enough to adapt in every test, what it computes, and its gradients against the slopes of its loss. */

import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { expect, onTestFinished } from 'vitest';
import {
  getPeftModel,
  LoraConfig,
  type LoraConfigFields,
  mergeAdapter,
  mergeAndSave,
  type PeftModel,
} from '../../adapters/index.ts';
import { valueAndGradients } from '../../src/autograd/index.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { MambaConfig } from '../../src/model/config.ts';
import { mergedNorm } from '../../src/model/modules.ts';
import { openStreamedModel } from '../../src/model/streamed_model.ts';
import { bestBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { numericalGradient } from '../helpers/finite_differences.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

export const ALL = ['embeddings', 'in_proj', 'x_proj', 'dt_proj', 'out_proj'];
export const CONFIG = new MambaConfig({
  vocabSize: 40,
  hiddenSize: 16,
  numHiddenLayers: 2,
  stateSize: 4,
  timeStepRank: 2,
});
/** One layer with step sizes and weights large enough for every projection to matter. */
export const LIVELY = CONFIG.with({ numHiddenLayers: 1, initializerRange: 0.4, timeStepMin: 0.2, timeStepMax: 2 });
export const ROWS = [[3, 14, 15, 9, 26, 5, 35, 8]];

/** A model that the test's end disposes of. */
export function newModel(config = CONFIG): MambaForCausalLM {
  const model = MambaForCausalLM.fromConfig(config, { seed: 4 });
  onTestFinished(() => model.dispose());
  return model;
}

export function adapted(fields: Partial<LoraConfigFields>, config = CONFIG, seed = 0): PeftModel {
  return getPeftModel(newModel(config), new LoraConfig(fields), { seed });
}

export function logitsOf(model: MambaForCausalLM): Float32Array {
  const { logits } = model.forward({ inputIds: ROWS });
  const values = logits.dataSync<'float32'>().slice();
  logits.dispose();
  return values;
}

export function batch() {
  const inputIds = Int32Array.from(ROWS.flat());
  return { inputIds, labels: inputIds, batch: 1, seqlen: inputIds.length };
}

export function lossOf(model: MambaForCausalLM): number {
  return tf.tidy(() => model.lossSum(batch()).lossSum.dataSync()[0] as number);
}

/** The gradient of {@link lossOf} by each trainable tensor. */
export function gradientsOf(model: MambaForCausalLM): Map<string, number[]> {
  const parameters = model.trainableParameters();
  const gradients = tf.tidy(() =>
    valueAndGradients(() => model.lossSum(batch()).lossSum, [...parameters.values()]).gradients.map((gradient) => [
      ...(gradient?.dataSync() ?? []),
    ]),
  );
  return new Map(Array.from(parameters.keys(), (name, i) => [name, gradients[i] as number[]]));
}

/** Walks along each trainable tensor's gradient: the loss must rise by the gradient's norm. */
export function expectSlopes(model: MambaForCausalLM, where: string): void {
  const gradients = gradientsOf(model);
  for (const [name, variable] of model.trainableParameters()) {
    const gradient = gradients.get(name) as number[];
    const start = [...variable.dataSync()];
    const norm = Math.hypot(...gradient);
    const lossAt = (distance: number) => {
      const values = start.map((value, i) => value + (distance * (gradient[i] as number)) / norm);
      tf.tidy(() => variable.assign(tf.tensor(values, variable.shape)));
      return lossOf(model);
    };
    const [slope] = numericalGradient(([distance]) => lossAt(distance as number), [0], 0.01);
    lossAt(0);
    expect(norm, `${name} has a slope`).toBeGreaterThan(0.02);
    // The loss is about 30 in float32: its rounding over the step bounds what a difference can show.
    expectClose([norm], [slope as number], { rtol: 1e-3, atol: 5e-4, name: `slope of ${name} on ${where}` });
  }
}

/** Keeps DoRA's norms at what they are, which its gradients take for constant. */
export function holdNorms(model: MambaForCausalLM): void {
  for (const module of model.modules.values()) {
    if (module.lora?.magnitude) module.lora.magnitude.norm = tf.keep(mergedNorm(module));
  }
}

/** Merges in memory and from folders: both models compute what base and adapter compute. */
export async function expectMerges(peft: PeftModel): Promise<void> {
  const folder = temporaryFolder();
  const [base, adapter] = [join(folder, 'base'), join(folder, 'adapter')];
  await newModel(peft.model.config).savePretrained(base);
  await peft.savePretrained(adapter);
  await mergeAndSave(peft, join(folder, 'memory'));
  const streamed = openStreamedModel(base);
  onTestFinished(() => streamed.close());
  const probe = { source: 'fixed ids', inputIds: ROWS[0] as number[] };
  const receipt = await mergeAdapter(streamed, adapter, join(folder, 'streamed'), probe);
  expect(receipt.relative_difference).toBeLessThan(1e-5);
  const wanted = logitsOf(peft.model);
  for (const part of ['memory', 'streamed']) {
    const merged = await MambaForCausalLM.fromPretrained(join(folder, part), { backend: bestBackend });
    onTestFinished(() => merged.dispose());
    expectClose(logitsOf(merged), wanted, { rtol: 5e-6, name: `logits of the model merged ${part}` });
  }
}
