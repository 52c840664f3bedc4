// SPDX-License-Identifier: Apache-2.0
/**
 * The one schema of a run's YAML. Trainer keys are TrainingArguments' names and defaults (transformers) where it has them,
 * adapter keys are LoraConfig's (peft). A key that stands here is obeyed; there is no other key.
 */
import { z } from 'zod';
import { adapterSchema } from './adapter_schema.ts';
import { dataSourceSchema } from './data_source_schema.ts';
import { evalSectionSchema } from './eval_schema.ts';
import { trainerSchema as trainer } from './trainer_schema.ts';

const name = z.string().min(1);

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
        'Precision of matrix products, in the words of torch.set_float32_matmul_precision. highest: float32 accuracy; on the cuda backend also high: TF32 inputs, medium: bfloat16 inputs, both with float32 sums.',
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
        "Loss on the completion, or on the assistant's turns, only (true) or on all tokens (false). null: only on those when records have them.",
      ),
    assistant_turns: z
      .enum(['all', 'last'])
      .default('all')
      .describe("The assistant's turns of a record of messages that carry loss: all, or the last alone."),
    chat_template: z
      .enum(['tokenizer', 'chatml', 'alpaca', 'zephyr', 'plain'])
      .nullable()
      .default(null)
      .describe(
        "How messages and instructions are written: by the tokenizer's own template, or by one of these names. null: messages by the tokenizer's, instructions as alpaca.",
      ),
    append_eos: z
      .boolean()
      .default(true)
      .describe(
        'End each record with the end-of-text token, unless it ends so already, so that the model learns to stop.',
      ),
    cache_dir: name
      .nullable()
      .default(null)
      .describe(
        'Folder of the token cache (relative to the current directory): tokenized data is kept there and read from there, as it is needed. null: the data is tokenized at each start, into memory.',
      ),
    dataset_num_proc: z
      .int()
      .min(1)
      .nullable()
      .default(null)
      .describe('Threads that tokenize; null is one a processor.'),
    on_bad_record: z
      .enum(['error', 'skip'])
      .default('error')
      .describe('What a broken line, row or record does: end the run with its place, or be left out and counted.'),
    shuffle: z.boolean().default(true).describe('New order of the training records in each epoch, from trainer.seed.'),
    packing: z
      .boolean()
      .default(false)
      .describe(
        'Put several training records into each row of up to max_length tokens. Exact: the states start anew at each record, so no record sees another. Batches then count rows.',
      ),
  })
  .describe('What to train and evaluate on.');

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
