// SPDX-License-Identifier: Apache-2.0
/** The `eval` section of a config: the jobs of `mambatune eval`, and the models that they compare. */
import { z } from 'zod';
import { dataSourceSchema } from './data_source_schema.ts';

const text = z.string().min(1);
const count = z.int().min(1);

const jobName = z
  .string()
  .regex(/^[\w.-]+$/)
  .nullable()
  .default(null)
  .describe('What tables and files call the job: letters, digits, _ . -; null is its type.');
const limit = count.nullable().default(null).describe('Evaluate the first records only; null is all.');
const itemSource = z
  .strictObject({ path: text.describe('JSONL file (relative to the current directory).') })
  .describe('The items of the job.');
const field = (name: string, meaning: string) => text.default(name).describe(meaning);

function gateOn<const Names extends [string, ...string[]]>(names: Names) {
  return z
    .strictObject({
      metric: z.enum(names).describe('The metric to hold.'),
      max_regression: z
        .number()
        .min(0)
        .describe(
          'How much worse than the base model an adapter or model may be, in the unit of the metric. Beyond it the command fails with exit code 1.',
        ),
    })
    .nullable()
    .default(null)
    .describe('What must not get worse than with the base model.');
}

const perplexity = z
  .strictObject({
    type: z.literal('perplexity').describe('Loss and perplexity of documents.'),
    name: jobName,
    data: dataSourceSchema
      .nullable()
      .default(null)
      .describe('The documents, tokenized and masked as the data section says; null is data.eval.'),
    max_length: z
      .int()
      .min(2)
      .nullable()
      .default(null)
      .describe('Cut documents to this many tokens; null, the default, evaluates them whole, of whatever length.'),
    limit,
    gate: gateOn(['loss', 'perplexity']),
  })
  .describe('Loss and perplexity of documents.');

const multipleChoice = z
  .strictObject({
    type: z.literal('multiple_choice').describe('Which of several continuations the model finds likeliest.'),
    name: jobName,
    data: itemSource,
    context_field: field('context', 'Field with the text before the choice.'),
    choices_field: field('choices', 'Field with the list of choices, at least two.'),
    answer_field: field('answer', 'Field with the right choice: its position in the list, from 0.'),
    target_delimiter: z.string().default(' ').describe('Text between context and choice.'),
    limit,
    gate: gateOn(['acc', 'acc_norm']),
  })
  .describe('Which of several continuations the model finds likeliest, as lm-eval scores it.');

const generate = z
  .strictObject({
    type: z.literal('generate').describe('What the model writes, against reference answers.'),
    name: jobName,
    data: itemSource,
    prompt_field: field('prompt', 'Field with the prompt.'),
    answer_field: field('answer', 'Field with the right answer: a text, or a list of texts any of which is right.'),
    max_new_tokens: count.default(64).describe('Most tokens to write.'),
    until: z.array(text).default([]).describe('The answer ends before the first of these texts.'),
    metrics: z
      .array(z.enum(['exact_match', 'rougeL', 'chrf']))
      .min(1)
      .default(['exact_match', 'rougeL', 'chrf'])
      .describe(
        'exact_match: share of answers equal to a reference, spaces around them aside; rougeL: longest common subsequence of words; chrf: character n-grams of all answers together.',
      ),
    ignore_case: z.boolean().default(false).describe('exact_match does not tell upper from lower case.'),
    ignore_punctuation: z.boolean().default(false).describe('exact_match leaves ASCII punctuation out.'),
    limit,
    gate: gateOn(['exact_match', 'rougeL', 'chrf']),
  })
  .describe('What the model writes, greedily, against reference answers.');

export const evalSectionSchema = z
  .strictObject({
    jobs: z
      .array(z.discriminatedUnion('type', [perplexity, multipleChoice, generate]))
      .min(1)
      .nullable()
      .default(null)
      .describe('What to measure. null: one perplexity job on data.eval, cut to data.max_length.'),
    adapters: z
      .record(z.string().regex(/^[\w.-]+$/), text)
      .default({})
      .describe('Adapters to measure beside the base model: a name each, and the folder. All on one loaded base.'),
    models: z
      .record(z.string().regex(/^[\w.-]+$/), text)
      .default({})
      .describe(
        'Whole models to measure beside the base model, such as merged ones: a name each, and the folder or Hub id. They must have the tokenizer of the base.',
      ),
    output_dir: text
      .nullable()
      .default(null)
      .describe(
        'Folder for eval.json and, with logging.tensorboard, the event files (relative to the current directory); null writes no file.',
      ),
    batch_size: count.default(8).describe('Sequences of one forward pass. No result depends on it.'),
    window: z
      .int()
      .min(2)
      .default(1024)
      .describe(
        'Positions of one forward pass over a document; the state is carried from one to the next, so that no loss depends on it. Also the block of tokens that intervals draw.',
      ),
    bootstrap_samples: count.default(1000).describe('Draws behind the intervals of differences from the base model.'),
    confidence: z.number().gt(0).lt(1).default(0.95).describe('Probability that the intervals are to cover.'),
    seed: z.int().min(0).default(0).describe('Seed of the draws.'),
  })
  .describe('What mambatune eval measures, and on what.');

export type EvalSection = z.output<typeof evalSectionSchema>;
export type EvalJob = NonNullable<EvalSection['jobs']>[number];
export type PerplexityJob = Extract<EvalJob, { type: 'perplexity' }>;
export type MultipleChoiceJob = Extract<EvalJob, { type: 'multiple_choice' }>;
export type GenerateJob = Extract<EvalJob, { type: 'generate' }>;
