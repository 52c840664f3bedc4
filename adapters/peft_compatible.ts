// SPDX-License-Identifier: Apache-2.0
/** What peft can use of an adapter on Mamba, and the division of an adapter into that and the rest, which is merged. */
import { UserError } from '../src/errors.ts';
import type { StreamedModel } from '../src/model/streamed_model.ts';
import type { DiskAdapter } from './disk_adapter.ts';
import type { LoraConfig, LoraConfigFields } from './lora_config.ts';
import { adapterShapes } from './targets.ts';

/**
 * What peft does with an adapter of a Mamba module, by the last part of the module's name
 * (peft 0.16 and later, tuners_utils.py::_check_lora_target_modules_mamba; transformers 5, MambaMixer.forward).
 */
const PEFT_FAULTS: Readonly<Record<string, string>> = {
  out_proj: 'peft refuses it on Mamba since 0.16, training and loading (ValueError)',
  conv1d: 'peft refuses it on Mamba since 0.16, training and loading (ValueError)',
  dt_proj:
    'transformers 5 reads its base weight past the adapter, so that peft loads it and it changes nothing until it is merged',
  embeddings: 'peft merges it into a tied head as well (merge_and_unload), which changes the logits',
};

/** Why peft cannot use an adapter of this module as it is; undefined when it can. */
export function peftFault(module: string): string | undefined {
  return PEFT_FAULTS[module.split('.').at(-1) ?? ''];
}

export interface KeptAdapter {
  config: LoraConfig;
  /** Names of its modules. */
  targets: string[];
  tensors: Map<string, { shape: number[]; dataSync(): Float32Array }>;
}

/** The other ways of choosing are in the list of targets; whole parameters, and what first values took out, are in the model. */
const PLAIN: Partial<LoraConfigFields> = {
  excludeModules: null,
  layersToTransform: null,
  layersPattern: null,
  bias: 'none',
  modulesToSave: null,
  trainableTokenIndices: null,
  initLoraWeights: true,
};

/**
 * Divides an adapter into the modules to merge and an adapter of those that peft applies as they are.
 * @throws UserError when nothing would be left for the adapter
 */
export function exportPlan(adapter: DiskAdapter, model: StreamedModel): { merged: string[]; kept: KeptAdapter } {
  const merged = adapter.targets.filter((name) => peftFault(name) !== undefined);
  const targets = adapter.targets.filter((name) => peftFault(name) === undefined);
  if (targets.length === 0) {
    const kinds = [...new Set(merged.map((name) => name.split('.').at(-1)))].join(', ');
    throw new UserError(
      `${adapter.folder}: it adapts ${kinds} only, and peft can use none of these on Mamba; merge without the peft-compatible export.`,
    );
  }
  const shapes = targets.flatMap((name) => {
    const module = model.modules.get(name);
    return module ? adapterShapes(module, adapter.config) : [];
  });
  const tensors = new Map(
    shapes.map(([key, shape]) => [key, { shape, dataSync: () => adapter.tensors.get(key) as Float32Array }]),
  );
  return {
    merged,
    kept: { config: adapter.config.with({ ...PLAIN, targetModules: shortNames(targets, model) }), targets, tensors },
  };
}

/** The modules' last names where those mean the same modules, else their full names. */
function shortNames(targets: readonly string[], model: StreamedModel): string[] {
  const lastNames = [...new Set(targets.map((name) => name.split('.').at(-1) as string))];
  const meant = [...model.modules.keys()].filter((name) => lastNames.includes(name.split('.').at(-1) as string));
  return meant.length === targets.length ? lastNames : [...targets];
}
