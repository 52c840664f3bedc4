// SPDX-License-Identifier: Apache-2.0
/** Makes configs/reference.yaml: every key of the schema, explained, with its default where it has one. */
import { commentedConfig } from '../../src/config/commented.ts';
import { configJsonSchema, runConfigSchema } from '../../src/config/schema.ts';

const HEAD = `# yaml-language-server: $schema=schema.json
#
# Every key that a config may have. It trains as it stands, from the root of the package:
#
#   npx mambatune train configs/reference.yaml
#
# What is set here is the default, but for the model, the data and the run folder. A config of your own needs only the keys that
# differ: mambatune init writes one. Commented out is what may stand at a key that is null or empty here.

`;

export function referenceConfig(): string {
  const values = runConfigSchema.parse({
    model: { path: 'models/mamba-5m' },
    data: {
      train: { path: 'datasets/quickstart/train.jsonl' },
      eval: { path: 'datasets/quickstart/test.jsonl' },
    },
    trainer: { output_dir: 'runs/reference' },
  });
  return HEAD + commentedConfig(configJsonSchema(), values, { all: true });
}
