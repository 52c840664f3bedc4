// SPDX-License-Identifier: Apache-2.0
/** The public door: everything that `import … from 'mambatune'` gives. */

export {
  type AdapterReport,
  type CombineOptions,
  type CombineResult,
  type ConvertOptions,
  type ConvertResult,
  combineAdapters,
  convertAdapter,
  getPeftModel,
  type InitLoraWeights,
  inspectAdapter,
  type LoadAdapterOptions,
  type LogitComparison,
  LoraConfig,
  type LoraConfigFields,
  type MergeAdapterOptions,
  type MergeOptions,
  type MergeReceipt,
  type MergeResult,
  mergeAdapter,
  mergeAndSave,
  type ParameterCounts,
  PeftModel,
  type Probe,
  type TiedPolicy,
} from '../adapters/index.ts';
export {
  type Dataset,
  type LoadDatasetOptions,
  loadDataset,
  type TokenizedDataset,
  type TokenizeOptions,
  tokenizeDataset,
} from '../datasets/index.ts';
export {
  type EvalReport,
  type Evaluation,
  type EvaluationIo,
  evaluate,
  type RunIo,
  runEvaluation,
  runTraining,
  SFTTrainer,
  type SFTTrainerOptions,
  TrainingArguments,
  type TrainingArgumentsInput,
  type TrainingResult,
} from '../trainer/index.ts';
export { type BackendChoice, type BackendName, type SelectedBackend, selectBackend } from './backends/select.ts';
export { type LoadedConfig, loadConfig, loadEvalConfig } from './config/load.ts';
export type { EvalConfig, RunConfig } from './config/schema.ts';
export { ConfigError, UserError } from './errors.ts';
export {
  type GeneratedToken,
  type GenerateOptions,
  type GenerationState,
  generate,
  loadState,
  readPrompt,
  type SamplingOptions,
  saveState,
  stream,
} from './generation/index.ts';
export { writeReport } from './logging/report/page.ts';
export { createEventWriter, type EventWriter, type EventWriterOptions } from './logging/tensorboard/event_writer.ts';
export { type ForwardInputs, type ForwardResult, MambaForCausalLM } from './model/causal_lm.ts';
export { MambaConfig, type MambaConfigFields } from './model/config.ts';
export { type LoadOptions, MambaModel, type ModelInputs, type ModelResult } from './model/mamba_model.ts';
export { openStreamedModel, type StreamedModel } from './model/streamed_model.ts';
export type { ChatMessage, ChatTemplateOptions } from './tokenizer/chat_template.ts';
export { AutoTokenizer, type Tokenizer, type TokenizerOutput } from './tokenizer/tokenizer.ts';
