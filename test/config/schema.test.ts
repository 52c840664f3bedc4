// SPDX-License-Identifier: Apache-2.0
/** configs/: the JSON Schema is what the code says (`npx vitest run test/config/schema.test.ts -u` rewrites it), the YAML loads. */
import { describe, expect, it } from 'vitest';
import { loadConfig, loadEvalConfig } from '../../src/config/load.ts';
import { configJsonSchema, type JsonSchema } from '../../src/config/schema.ts';

const configs = new URL('../../configs/', import.meta.url);

describe('configs/schema.json', () => {
  it('is current', async () => {
    await expect(`${JSON.stringify(configJsonSchema(), null, 2)}\n`).toMatchFileSnapshot(
      new URL('schema.json', configs).pathname,
    );
  });

  it('describes every key and allows no other', () => {
    const visit = (schema: JsonSchema, path: string): void => {
      const node = schema.anyOf?.find((branch) => branch.properties) ?? schema;
      if (path !== '') expect(schema.description ?? node.description, path).toMatch(/\.$/);
      if (!node.properties) return;
      expect(node, path).toHaveProperty('additionalProperties', false);
      for (const [key, part] of Object.entries(node.properties)) visit(part, `${path}.${key}`);
    };
    visit(configJsonSchema(), '');
  });
});

describe('the configs that come with the project', () => {
  const read = (name: string) => loadConfig(new URL(name, configs).pathname).config;

  it('quickstart.yaml is the seed recipe on the quickstart data', () => {
    const config = read('quickstart.yaml');
    expect(config.model.path).toBe('models/mamba-5m');
    expect(config.adapter).toMatchObject({
      r: 8,
      lora_alpha: 8,
      target_modules: ['x_proj', 'embeddings', 'in_proj', 'out_proj'],
    });
    expect(config.data).toMatchObject({
      train: { path: 'datasets/quickstart/train.jsonl' },
      eval: { path: 'datasets/quickstart/test.jsonl' },
      max_length: 256,
      completion_only_loss: false,
    });
    expect(config.trainer).toMatchObject({
      output_dir: 'runs/quickstart',
      num_train_epochs: 3,
      per_device_train_batch_size: 4,
      learning_rate: 2e-3,
      max_grad_norm: 1,
      logging_steps: 10,
      eval_strategy: 'epoch',
      save_strategy: 'epoch',
    });
  });

  it("english_quotes.yaml is the model card's example", () => {
    const config = read('english_quotes.yaml');
    expect(config.model.path).toBe('state-spaces/mamba-130m-hf');
    expect(config.data.train).toMatchObject({ hub: 'Abirate/english_quotes', split: 'train', text_field: 'quote' });
    expect(config.trainer).toMatchObject({
      num_train_epochs: 3,
      per_device_train_batch_size: 4,
      logging_steps: 10,
      learning_rate: 2e-3,
    });
  });

  it('eval.yaml has a job of each type, and every key of them', () => {
    const path = new URL('eval.yaml', configs).pathname;
    const withoutAdapter = ['eval.adapters={}', 'eval.models={tuned: models/mamba-5m}'];
    const { config, source } = loadEvalConfig(path, withoutAdapter);
    expect(config.eval?.jobs?.map(({ type }) => type)).toEqual(['perplexity', 'multiple_choice', 'generate']);
    const keys = [config.eval ?? {}, ...(config.eval?.jobs ?? [])].flatMap(Object.keys);
    for (const key of keys) expect(source, key).toContain(`${key}:`);
  });
});
