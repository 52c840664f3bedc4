// SPDX-License-Identifier: Apache-2.0
/** An adapter read for a model whose parts are loaded one by one. */
import * as tf from '@tensorflow/tfjs-core';
import type { AttachAdapter, StreamedModel } from '../src/model/streamed_model.ts';
import { loraOf } from './inject.ts';
import type { LoraConfig } from './lora_config.ts';
import { readAdapter } from './peft_files.ts';
import { targetedModules } from './targets.ts';

export interface DiskAdapter {
  readonly folder: string;
  readonly config: LoraConfig;
  /** Of the base that it was made for, where it says. */
  readonly fingerprint: string | null;
  /** Names of the modules that it adapts, in the model's order. */
  readonly targets: readonly string[];
  /** Values by peft's names. */
  readonly tensors: ReadonlyMap<string, Float32Array>;
  /** Attaches to those modules that it adapts. */
  readonly attach: AttachAdapter;
  /** As `attach`, for some of its targets only. */
  attachOnly(targets: readonly string[]): AttachAdapter;
}

/** @throws UserError when files are missing or damaged, or when the adapter does not fit: one error with every mismatch */
export function openDiskAdapter(folder: string, model: StreamedModel): DiskAdapter {
  const { config, tensors, fingerprint } = readAdapter(folder, model);
  const targets = targetedModules(model, config).map((module) => module.name);
  const attachOnly =
    (names: readonly string[]): AttachAdapter =>
    (modules) => {
      for (const module of modules.filter(({ name }) => names.includes(name))) {
        const value = (key: string, shape: [number, number]) => tf.tensor(tensors.get(key) as Float32Array, shape);
        module.lora = loraOf(module, config, false, value);
      }
    };
  return { folder, config, fingerprint, targets, tensors, attach: attachOnly(targets), attachOnly };
}
