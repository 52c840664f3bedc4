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
