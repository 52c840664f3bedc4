// SPDX-License-Identifier: Apache-2.0
/** LoRA adapters: config, attachment, peft files, merging. */
export type { CombineOptions, CombineResult } from './combine.ts';
export { combineAdapters } from './combine.ts';
export type { CombinationType, MajoritySignMethod } from './combine_types.ts';
export type { EmbeddingPolicy } from './head_policy.ts';
export type { AdapterReport, InspectedModule } from './inspect.ts';
export { inspectAdapter } from './inspect.ts';
export type { LogitComparison } from './logit_comparison.ts';
export type { InitLoraWeights, LoraConfigFields } from './lora_config.ts';
export { LoraConfig } from './lora_config.ts';
export type { MergeOptions, MergeResult } from './merge.ts';
export { mergeAndSave } from './merge.ts';
export type { MergeAdapterOptions, MergeReceipt, Probe } from './merge_adapter.ts';
export { mergeAdapter, RECEIPT_FILE } from './merge_adapter.ts';
export { deltaWeight, mergedBias, mergedWeight } from './merged_weight.ts';
export type { ConvertOptions, ConvertResult } from './mlx.ts';
export { convertAdapter } from './mlx.ts';
export { type AdapterNorm, adapterNorms } from './norms.ts';
export { readAdapterConfig } from './peft_files.ts';
export type { LoadAdapterOptions, ParameterCounts } from './peft_model.ts';
export { getPeftModel, PeftModel } from './peft_model.ts';
export { targetedModules } from './targets.ts';
export type { TiedPolicy } from './tied_policy.ts';
export { TIED_POLICIES } from './tied_policy.ts';
