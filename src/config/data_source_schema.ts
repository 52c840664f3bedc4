// SPDX-License-Identifier: Apache-2.0
/** A source of records in a config. */
import { z } from 'zod';

const name = z.string().min(1);

/** One source of records: `path` or `hub`, with the names of the fields to read. */
export const dataSourceSchema = z.strictObject({
  path: name
    .nullable()
    .default(null)
    .describe('JSONL file, or folder of JSONL files (relative to the current directory).'),
  hub: name
    .nullable()
    .default(null)
    .describe('Hub dataset id whose files are JSONL, such as Abirate/english_quotes; instead of path.'),
  split: name
    .nullable()
    .default(null)
    .describe(
      'Split of a Hub dataset or of a folder, found by file names such as train.jsonl or data/train-*.jsonl; null is train.',
    ),
  revision: name.nullable().default(null).describe('Branch, tag or commit of a Hub dataset; null is main.'),
  text_field: name.nullable().default(null).describe('Field that holds the text; null is text.'),
  prompt_field: name.nullable().default(null).describe('Field that holds the prompt; null is prompt.'),
  completion_field: name.nullable().default(null).describe('Field that holds the completion; null is completion.'),
});
