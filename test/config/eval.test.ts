// SPDX-License-Identifier: Apache-2.0
/** The eval section: defaults, and every kind of mistake with its place and advice. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { formatConfig, loadConfig, loadEvalConfig } from '../../src/config/load.ts';
import { ConfigError } from '../../src/errors.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

/** A config with these lines as its eval section; FOLDER stands for a folder with an adapter, a model, texts and items. */
function write(section: string[], top = 'data: {eval: {path: FOLDER/texts.jsonl}}'): string {
  const folder = temporaryFolder();
  for (const name of ['model', 'adapter']) mkdirSync(join(folder, name));
  writeFileSync(join(folder, 'adapter', 'adapter_config.json'), '{}');
  for (const name of ['texts.jsonl', 'items.jsonl']) writeFileSync(join(folder, name), '{"text": "a"}\n');
  const path = join(folder, 'eval.yaml');
  const text = ['model: {path: FOLDER/model}', top, 'eval:', ...section.map((line) => `  ${line}`), ''].join('\n');
  writeFileSync(path, text.replaceAll('FOLDER', folder));
  return path;
}

function errorOf(path: string): string {
  try {
    loadEvalConfig(path);
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError);
    return (error as Error).message;
  }
  throw new Error('the config was accepted');
}

const ITEMS = 'data: {path: FOLDER/items.jsonl}';

describe('the eval section', () => {
  it('gets its defaults', () => {
    const { config } = loadEvalConfig(
      write([
        'adapters: {tuned: FOLDER/adapter}',
        'models: {merged: FOLDER/model}',
        'jobs:',
        '  - {type: perplexity}',
        `  - {type: multiple_choice, ${ITEMS}, gate: {metric: acc, max_regression: 0.01}}`,
        `  - {type: generate, name: write, ${ITEMS}}`,
      ]),
    );
    expect(config.eval).toMatchObject({
      output_dir: null,
      batch_size: 8,
      window: 1024,
      bootstrap_samples: 1000,
      confidence: 0.95,
      seed: 0,
      jobs: [
        { type: 'perplexity', name: null, data: null, max_length: null, limit: null, gate: null },
        { context_field: 'context', choices_field: 'choices', answer_field: 'answer', target_delimiter: ' ' },
        { name: 'write', max_new_tokens: 64, until: [], metrics: ['exact_match', 'rougeL', 'chrf'] },
      ],
    });
    expect(formatConfig(config)).toContain('type: multiple_choice');
  });

  it('needs no data section when its jobs bring their data, and no jobs when data.eval is there', () => {
    const bare = write(['jobs:', '  - {type: perplexity, data: {path: FOLDER/texts.jsonl}}'], 'trainer: {}');
    expect(loadEvalConfig(bare).config.data.eval).toBeNull();
    expect(loadEvalConfig(write(['adapters: {tuned: FOLDER/adapter}'])).config.eval?.jobs).toBeNull();
  });

  it('may stand in a config to train with, before its adapter is there', () => {
    const path = write(
      ['adapters: {tuned: runs/not/yet}'],
      'data: {train: {path: FOLDER/texts.jsonl}}\ntrainer: {output_dir: runs/not/yet}',
    );
    expect(loadConfig(path).config.eval?.adapters).toEqual({ tuned: 'runs/not/yet' });
  });

  it.each<[section: string[], message: RegExp]>([
    [
      ['jobs: [{type: perplexty}]'],
      /eval\.yaml:4:11: eval\.jobs\.0\.type: found the string "perplexty"; expected one of perplexity, multiple_choice, generate; did you mean perplexity\?/,
    ],
    [
      ['jobs: [{name: a}]'],
      /4:10: eval\.jobs\.0\.type: missing; expected one of perplexity, multiple_choice, generate/,
    ],
    [
      ['jobs: []'],
      /4:3: eval\.jobs: found a list; expected a non-empty list, each item a map with a type of perplexity/,
    ],
    [['jobs: [perplexity]'], /eval\.jobs\.0: found the string "perplexity"; expected a map with a type of/],
    [
      ['jobs:', '  - type: perplexity', '    max_lenght: 5'],
      /eval\.yaml:6:7: eval\.jobs\.0\.max_lenght: unknown key; did you mean max_length\? Known keys in eval\.jobs\.0: type, name, data, max_length, limit, gate/,
    ],
    [
      ['jobs: [{type: perplexity, choices_field: a}]'],
      /eval\.jobs\.0\.choices_field: unknown key.*Known keys in eval\.jobs\.0: type, name, data, max_length/,
    ],
    [
      ['jobs: [{type: generate}]'],
      /eval\.jobs\.0\.data: missing; expected a map with the keys path \(The items of the job\)/,
    ],
    [
      ['jobs: [{type: perplexity, name: a b}]'],
      /name: found the string "a b"; expected a string that matches .* or null/,
    ],
    [
      [`jobs: [{type: generate, ${ITEMS}, metrics: [bleu]}]`],
      /metrics\.0: found the string "bleu"; expected one of exact/,
    ],
    [
      [`jobs: [{type: generate, ${ITEMS}, metrics: [chrf], gate: {metric: rougeL, max_regression: 1}}]`],
      /gate\.metric: the job does not compute rougeL; add it to the job's metrics/,
    ],
    [
      [
        'adapters: {a: FOLDER/adapter}',
        `jobs: [{type: multiple_choice, ${ITEMS}, gate: {metric: accuracy, max_regression: 0}}]`,
      ],
      /gate\.metric: found the string "accuracy"; expected one of acc, acc_norm/,
    ],
    [['jobs: [{type: perplexity, gate: {metric: loss, max_regression: -1}}]'], /expected a number at least 0/],
    [
      ['jobs: [{type: perplexity, gate: {metric: loss, max_regression: 0}}]'],
      /4:29: eval\.jobs\.0\.gate: there is nothing to hold against the base model; add eval\.adapters or eval\.models/,
    ],
    [
      ['jobs: [{type: perplexity}, {type: perplexity}]'],
      /4:30: eval\.jobs\.1\.name: an earlier job is called perplexity too/,
    ],
    [['jobs: [{type: generate, data: {path: no.jsonl}}]'], /4:34: eval\.jobs\.0\.data\.path: there is no "no\.jsonl"/],
    [['jobs: [{type: perplexity, data: {path: no.jsonl}}]'], /eval\.jobs\.0\.data\.path: there is no "no\.jsonl"/],
    [
      ['adapters: {tuned: FOLDER/model}'],
      /4:14: eval\.adapters\.tuned: there is no ".*adapter_config\.json".*PEFT adapter/,
    ],
    [['adapters: {base: FOLDER/adapter}'], /eval\.adapters\.base: this is the name of the model without adapter/],
    [['adapters: {a b: FOLDER/adapter}'], /eval\.adapters\.a b: found the name "a b"; expected a string that matches/],
    [['adapters: {a: 3}'], /eval\.adapters\.a: found 3; expected a non-empty string/],
    [
      ['adapters: FOLDER/adapter'],
      /eval\.adapters: found the string .*; expected a map of names to a non-empty string/,
    ],
    [['models: {merged: ./no/such}'], /eval\.models\.merged: there is no ".\/no\/such".*no Hub id/],
    [['adapters: {a: FOLDER/adapter}', 'models: {a: FOLDER/model}'], /eval\.models\.a: an adapter has this name too/],
    [['batch_sise: 2'], /4:3: eval\.batch_sise: unknown key; did you mean batch_size\?/],
    [['confidence: 1'], /eval\.confidence: found 1; expected a number greater than 0 and less than 1/],
  ])('%j is refused', (section, message) => {
    expect(errorOf(write(section))).toMatch(message);
  });

  it('misses documents', () => {
    expect(errorOf(write(['jobs: [{type: perplexity}]'], 'trainer: {}'))).toMatch(
      /eval\.jobs\.0\.data: missing, and so is data\.eval; expected the documents to evaluate on/,
    );
    expect(errorOf(write(['batch_size: 1'], 'trainer: {}'))).toMatch(/data\.eval: missing; expected the records/);
  });
});
