// SPDX-License-Identifier: Apache-2.0
/** LoRA adapters: config, attachment, peft files, merging. */
export type { ParameterCounts } from './inject.ts';
export { getPeftModel, PeftModel } from './inject.ts';
export type { InitLoraWeights, LoraConfigFields } from './lora_config.ts';
export { LoraConfig } from './lora_config.ts';
export type { MergeResult } from './merge.ts';
export { mergeAndSave } from './merge.ts';
export { type AdapterNorm, adapterNorms } from './norms.ts';
export { readAdapterConfig } from './peft_files.ts';
export { targetedModules } from './targets.ts';
