// SPDX-License-Identifier: Apache-2.0
/**
 * The one schema of a run's YAML. Trainer keys are TrainingArguments' names and defaults (transformers) where it has them,
 * adapter keys are LoraConfig's (peft). A key that stands here is obeyed; there is no other key.
 */
import { z } from 'zod';
import { adapterSchema } from './adapter_schema.ts';
import { dataSourceSchema } from './data_source_schema.ts';
import { evalSectionSchema } from './eval_schema.ts';

const name = z.string().min(1);
const count = z.int().min(1);
const fraction = z.number().min(0).max(1);

const model = z
  .strictObject({
    path: name.describe(
      'Base model: a folder with config.json and weights (relative to the current directory), or a Hub id such as state-spaces/mamba-130m-hf.',
    ),
    revision: name.default('main').describe('Branch, tag or commit of a Hub id. A folder has none.'),
    matmul_precision: z
      .enum(['highest', 'high', 'medium'])
      .default('highest')
      .describe(
        'Precision of matrix products, in the words of torch.set_float32_matmul_precision. highest: IEEE float32; on the cuda backend also high: TF32 inputs, medium: bfloat16 inputs, both with float32 sums.',
      ),
  })
  .describe('The base model, which stays frozen.');

const data = z
  .strictObject({
    train: dataSourceSchema.describe('Records to train on.'),
    eval: dataSourceSchema.nullable().default(null).describe('Records to evaluate on.'),
    max_length: z
      .int()
      .min(2)
      .default(1024)
      .describe('Most tokens of a record; the rest is cut off (and the number of cut records told).'),
    completion_only_loss: z
      .boolean()
      .nullable()
      .default(null)
      .describe(
        'Loss on the completion only (true) or also on the prompt (false). null: on the completion only when records have one.',
      ),
    append_eos: z
      .boolean()
      .default(true)
      .describe('End each text or completion with the end-of-text token, so that the model learns to stop.'),
    shuffle: z.boolean().default(true).describe('New order of the training records in each epoch, from trainer.seed.'),
  })
  .describe('What to train and evaluate on.');

const trainer = z
  .strictObject({
    output_dir: name.describe('Run folder (relative to the current directory): metrics, checkpoints, the adapter.'),
    backend: z
      .enum(['auto', 'cuda', 'native', 'tensorflow', 'wasm', 'cpu'])
      .default('auto')
      .describe('What computes. auto: the fastest that works here.'),
    seed: z.int().min(0).default(42).describe('Seed of the order of records, of fresh weights and of dropout.'),
    num_train_epochs: z
      .number()
      .gt(0)
      .default(3)
      .describe('Passes over the training records; may be a fraction. max_steps, when set, wins.'),
    max_steps: z
      .union([z.literal(-1), count])
      .default(-1)
      .describe('Optimizer steps to train for; -1 means num_train_epochs decides.'),
    per_device_train_batch_size: count.default(8).describe('Records of one forward and backward pass in training.'),
    per_device_eval_batch_size: count.default(8).describe('Records of one forward pass in evaluation.'),
    gradient_accumulation_steps: count
      .default(1)
      .describe('Passes whose gradients make one optimizer step, weighted by their numbers of tokens.'),
    gradient_checkpointing: z
      .boolean()
      .default(false)
      .describe('Keep one activation per layer and recompute the others in the backward pass: less memory, more time.'),
    cuda_graphs: z
      .boolean()
      .default(true)
      .describe(
        'On the cuda backend, record each shape of a step as a CUDA graph and launch that; false runs every step as it comes.',
      ),
    learning_rate: z.number().gt(0).default(5e-5).describe('Peak learning rate.'),
    lr_scheduler_type: z
      .enum(['linear', 'cosine', 'constant', 'constant_with_warmup'])
      .default('linear')
      .describe('Course of the learning rate after the warm-up: linear or cosine down to 0, or constant.'),
    warmup_ratio: fraction.default(0).describe('Share of all steps in which the learning rate rises from 0.'),
    warmup_steps: z
      .int()
      .min(0)
      .default(0)
      .describe('Steps in which the learning rate rises from 0; instead of warmup_ratio.'),
    optim: z
      .enum(['adamw', 'adamw_torch'])
      .default('adamw')
      .transform(() => 'adamw' as const)
      .describe('Optimizer. adamw_torch is the same under the name TrainingArguments gives it.'),
    weight_decay: z.number().min(0).default(0).describe('Decoupled weight decay of AdamW.'),
    adam_beta1: z.number().min(0).lt(1).default(0.9).describe('Decay of the first moment.'),
    adam_beta2: z.number().min(0).lt(1).default(0.999).describe('Decay of the second moment.'),
    adam_epsilon: z.number().gt(0).default(1e-8).describe('Added to the root of the second moment.'),
    max_grad_norm: z
      .number()
      .min(0)
      .default(1)
      .describe('Largest global norm of the gradients, clipped beyond; 0 means never.'),
    logging_steps: count.default(10).describe('Steps from one line of metrics to the next.'),
    eval_strategy: z
      .enum(['no', 'steps', 'epoch'])
      .default('no')
      .describe('When to evaluate on data.eval in training.'),
    eval_steps: count
      .nullable()
      .default(null)
      .describe('Steps from one evaluation to the next; for eval_strategy: steps.'),
    save_strategy: z.enum(['no', 'steps', 'epoch']).default('epoch').describe('When to save a checkpoint in training.'),
    save_steps: count
      .nullable()
      .default(null)
      .describe('Steps from one checkpoint to the next; for save_strategy: steps.'),
    save_total_limit: count.nullable().default(null).describe('Checkpoints to keep, the oldest go; null keeps all.'),
  })
  .describe('How to train.');

const logging = z
  .strictObject({
    tensorboard: z
      .boolean()
      .default(true)
      .describe('Write event files for TensorBoard into the tensorboard folder of the run.'),
  })
  .describe('What a run tells of itself, beside metrics.jsonl.');

/** A config to train with. */
export const runConfigSchema = z.strictObject({
  model,
  adapter: adapterSchema.prefault({}),
  data,
  trainer,
  logging: logging.prefault({}),
  eval: evalSectionSchema
    .nullable()
    .default(null)
    .describe('What mambatune eval measures, and on what. null: loss and perplexity on data.eval.'),
});

/** The same keys; an evaluation needs neither data.train nor trainer.output_dir. */
export const evalConfigSchema = runConfigSchema.extend({
  data: data.extend({ train: dataSourceSchema.nullable().default(null).describe('Records to train on.') }).prefault({}),
  trainer: trainer.extend({ output_dir: trainer.shape.output_dir.nullable().default(null) }).prefault({}),
});

export type RunConfig = z.output<typeof runConfigSchema>;
export type EvalConfig = z.output<typeof evalConfigSchema>;
export type DataSource = z.output<typeof dataSourceSchema>;

/** A JSON Schema node, as far as the messages and the editors need it. */
export interface JsonSchema {
  description?: string;
  type?: string;
  const?: unknown;
  default?: unknown;
  enum?: unknown[];
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
  items?: JsonSchema;
  properties?: Record<string, JsonSchema>;
  /** false, or the schema of the values of a map with names of the user's. */
  additionalProperties?: JsonSchema | boolean;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  minItems?: number;
  minLength?: number;
  pattern?: string;
  /** What the names of such a map may be. */
  propertyNames?: JsonSchema;
}

/** The JSON Schema (draft 7, what YAML language servers read) of what a config file may hold: `configs/schema.json`. */
export function configJsonSchema(): JsonSchema {
  return {
    ...z.toJSONSchema(runConfigSchema, { io: 'input', target: 'draft-7' }),
    title: 'mambatune run config',
  } as JsonSchema;
}
