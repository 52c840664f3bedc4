// SPDX-License-Identifier: Apache-2.0
/** configs/reference.yaml is what the schema says; `npx vitest run test/config/reference_config.test.ts -u` rewrites it. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { configJsonSchema, type JsonSchema, runConfigSchema } from '../../src/config/schema.ts';
import { referenceConfig } from './reference.ts';

const configs = new URL('../../configs/', import.meta.url);

describe('configs/reference.yaml', () => {
  const path = new URL('reference.yaml', configs).pathname;

  it('is current', async () => {
    await expect(referenceConfig()).toMatchFileSnapshot(path);
  });

  it('loads, with the default of every key that has one', () => {
    const { config } = loadConfig(path);
    const { model, data, trainer } = config;
    const given = { model: { path: model.path }, data: { train: data.train, eval: data.eval } };
    expect(config).toEqual(runConfigSchema.parse({ ...given, trainer: { output_dir: trainer.output_dir } }));
  });

  it('has each key of the schema, under a comment with its description', () => {
    const lines = readFileSync(path, 'utf8')
      .split('\n')
      .map((line) => line.replace(/^(\s*#)+ {3}|^\s+/, '').trim());
    const text = lines
      .map((line) => line.replace(/^(# ?)+/, ''))
      .join(' ')
      .replace(/\s+/g, ' ');
    const visit = (schema: JsonSchema): void => {
      for (const [key, node] of Object.entries(schema.properties ?? {})) {
        expect(
          lines.some((line) => line.replace(/^(# |- )+/, '').startsWith(`${key}:`)),
          key,
        ).toBe(true);
        expect(text, key).toContain(node.description);
        visit(node);
      }
      for (const branch of [...(schema.anyOf ?? []), ...(schema.oneOf ?? [])]) visit(branch);
      if (schema.items) visit(schema.items);
    };
    visit(configJsonSchema());
  });
});
