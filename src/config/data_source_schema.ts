// SPDX-License-Identifier: Apache-2.0
/** Sources of records in a config. */
import { z } from 'zod';

const name = z.string().min(1);

/** One source of records: `path` or `hub`, with the names of the fields to read. */
const singleSourceSchema = z.strictObject({
  path: name
    .nullable()
    .default(null)
    .describe(
      'File (.jsonl, .json, .csv, .tsv, .parquet, .arrow, .feather, .txt; text formats also with .gz or .zst), folder or glob of them (relative to the current directory).',
    ),
  hub: name
    .nullable()
    .default(null)
    .describe('Hub dataset id whose files are of such formats, e.g. Abirate/english_quotes; instead of path.'),
  split: name
    .nullable()
    .default(null)
    .describe(
      'Split of a Hub dataset or of a folder, found by file names such as train.jsonl or data/train-*.jsonl; null is train.',
    ),
  revision: name.nullable().default(null).describe('Branch, tag or commit of a Hub dataset; null is main.'),
  text_field: name
    .nullable()
    .default(null)
    .describe('Field that holds the text; null is text. As in every field key, a name with dots means a nested field.'),
  prompt_field: name.nullable().default(null).describe('Field that holds the prompt; null is prompt.'),
  completion_field: name.nullable().default(null).describe('Field that holds the completion; null is completion.'),
  messages_field: name
    .nullable()
    .default(null)
    .describe('Field that holds the messages {role, content} or {from, value}; null is messages or conversations.'),
  instruction_field: name.nullable().default(null).describe('Field that holds the instruction; null is instruction.'),
  input_field: name
    .nullable()
    .default(null)
    .describe('Field that holds what the instruction is about; null is input, where records have it.'),
  output_field: name
    .nullable()
    .default(null)
    .describe('Field that holds the answer to the instruction; null is output.'),
  sample_by: z
    .enum(['line', 'paragraph', 'document'])
    .default('line')
    .describe('What of a text file (.txt) is one record.'),
});

/** One source of records, or several to mix. */
export const dataSourceSchema = singleSourceSchema.extend({
  sources: z
    .array(
      singleSourceSchema.extend({
        weight: z
          .number()
          .gt(0)
          .default(1)
          .describe(
            'How often each record of the source is seen in an epoch: 2 twice, 0.5 one of two, picked by trainer.seed.',
          ),
      }),
    )
    .min(1)
    .nullable()
    .default(null)
    .describe('Several sources, mixed in an order of trainer.seed; instead of path and hub.'),
});
