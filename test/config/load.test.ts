// SPDX-License-Identifier: Apache-2.0
/** Run configs: defaults, overrides, round trip, and every kind of mistake with its place and advice. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { formatConfig, loadConfig, loadEvalConfig } from '../../src/config/load.ts';
import { ConfigError } from '../../src/errors.ts';

let folder: string;
let model: string;
let train: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'mambatune-config-'));
  model = join(folder, 'model');
  train = join(folder, 'train.jsonl');
  mkdirSync(model);
  writeFileSync(train, '{"text": "a"}\n');
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A valid config, with one line replaced or lines added. */
function yaml(
  change: { add?: string; data?: string; trainer?: string; adapter?: string; model?: string } = {},
): string {
  return [
    'model:',
    `  path: ${model}`,
    ...(change.model ? [`  ${change.model}`] : []),
    'data:',
    `  train: {path: ${train}}`,
    ...(change.data ? [`  ${change.data}`] : []),
    'trainer:',
    '  output_dir: runs/x',
    ...(change.trainer ? change.trainer.split('\n').map((line) => `  ${line}`) : []),
    ...(change.adapter ? ['adapter:', `  ${change.adapter}`] : []),
    ...(change.add ? [change.add] : []),
    '',
  ].join('\n');
}

function write(text: string | Uint8Array): string {
  const path = join(folder, 'run.yaml');
  writeFileSync(path, text);
  return path;
}

function errorOf(
  text: string | Uint8Array,
  overrides: string[] = [],
  load: typeof loadConfig | typeof loadEvalConfig = loadConfig,
) {
  const path = write(text);
  try {
    load(path, overrides);
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError);
    return (error as Error).message.replaceAll(path, 'run.yaml');
  }
  throw new Error('the config was accepted');
}

describe('a good config', () => {
  it('gets the defaults of TrainingArguments and LoraConfig', () => {
    const { config, source } = loadConfig(write(yaml()));
    expect(source).toBe(yaml());
    expect(config.adapter).toEqual({
      type: 'lora',
      r: 8,
      lora_alpha: 8,
      lora_dropout: 0,
      target_modules: ['x_proj', 'embeddings', 'in_proj', 'out_proj'],
      exclude_modules: null,
      layers_to_transform: null,
      layers_pattern: null,
      rank_pattern: {},
      alpha_pattern: {},
      bias: 'none',
      lora_bias: false,
      modules_to_save: null,
      trainable_token_indices: null,
      use_rslora: false,
      use_dora: false,
      init_lora_weights: true,
      init_from: null,
    });
    expect(config.trainer).toMatchObject({
      learning_rate: 5e-5,
      num_train_epochs: 3,
      max_steps: -1,
      per_device_train_batch_size: 8,
      lr_scheduler_type: 'linear',
      optim: 'adamw',
      adam_beta2: 0.999,
      max_grad_norm: 1,
      seed: 42,
    });
    expect(config.data).toMatchObject({ eval: null, max_length: 1024, completion_only_loss: null, append_eos: true });
  });

  it('reads numbers that YAML 1.1 readers take for strings, and adamw_torch as adamw', () => {
    const { config } = loadConfig(write(yaml({ trainer: 'learning_rate: 2e-3\noptim: adamw_torch' })));
    expect(config.trainer.learning_rate).toBe(0.002);
    expect(config.trainer.optim).toBe('adamw');
  });

  it('takes a regular expression for target_modules, and a Hub id for the model', () => {
    const text = yaml({ adapter: 'target_modules: .*\\.(in|out)_proj' }).replace(model, 'state-spaces/mamba-130m-hf');
    const { config } = loadConfig(write(text));
    expect(config.adapter.target_modules).toBe('.*\\.(in|out)_proj');
    expect(config.model).toEqual({ path: 'state-spaces/mamba-130m-hf', revision: 'main', matmul_precision: 'highest' });
  });

  it('resolves aliases and starts with a byte order mark', () => {
    const text = yaml({ data: 'eval: *records' }).replace('train: {', 'train: &records {');
    const { config } = loadConfig(write(`\ufeff${text}`), ['data.eval.text_field=quote']);
    expect(config.data.eval).toMatchObject({ path: train, text_field: 'quote' });
    expect(config.data.train.text_field).toBeNull();
  });

  it('survives being written and loaded again', () => {
    const { config } = loadConfig(write(yaml({ adapter: 'init_lora_weights: gaussian', trainer: 'max_steps: 7' })));
    expect(loadConfig(write(formatConfig(config))).config).toEqual(config);
  });
});

describe('--set', () => {
  it('parses values as YAML, adds sections, and the last one wins', () => {
    const { config } = loadConfig(write(yaml()), [
      'trainer.max_steps=50',
      'trainer.max_steps=60',
      'adapter.target_modules=[in_proj, dt_proj]',
      'adapter.use_rslora=true',
      'trainer.learning_rate=1e-4',
      'data.completion_only_loss=null',
      'trainer.output_dir=runs/a=b',
    ]);
    expect(config.trainer).toMatchObject({ max_steps: 60, learning_rate: 1e-4, output_dir: 'runs/a=b' });
    expect(config.adapter).toMatchObject({ target_modules: ['in_proj', 'dt_proj'], use_rslora: true });
  });

  it('is named as the place of a problem', () => {
    expect(errorOf(yaml(), ['trainer.learning_rate=fast'])).toBe(
      '--set trainer.learning_rate: trainer.learning_rate: found the string "fast"; expected a number greater than 0',
    );
    expect(errorOf(yaml(), ['trainer.learning_rat=1'])).toMatch(
      /^--set trainer\.learning_rat: trainer\.learning_rat: unknown key; did you mean learning_rate\?/,
    );
    expect(errorOf(yaml(), ['model=5'])).toMatch(/^--set model: model: found 5; expected a map with the keys path, /);
  });

  it.each(['trainer.max_steps', '=5', 'a..b=1', 'a b=1'])('refuses %j', (override) => {
    expect(errorOf(yaml(), [override])).toBe(`--set ${override}: expected key=value, such as trainer.max_steps=50`);
  });

  it('refuses what is not YAML', () => {
    expect(errorOf(yaml(), ['adapter.r=[1'])).toMatch(/^--set adapter\.r: "\[1" is not YAML: /);
  });
});

describe('a mistake', () => {
  it('in a key names file, line, column, the nearest name and the known keys', () => {
    const message = errorOf(yaml({ trainer: 'learning_rat: 1.0e-3' }));
    expect(message).toMatch(
      /^run\.yaml:7:3: trainer\.learning_rat: unknown key; did you mean learning_rate\? Known keys in trainer: output_dir, backend, seed, /,
    );
    expect(message).toContain('max_grad_norm');
  });

  it('in the section of a key names the right one', () => {
    expect(errorOf(yaml({ model: 'max_length: 5' }))).toMatch(
      /^run\.yaml:3:3: model\.max_length: unknown key; did you mean data\.max_length\?/,
    );
  });

  it('at the top names the sections', () => {
    expect(errorOf(yaml({ add: 'trainr: {}' }))).toBe(
      'run.yaml:7:1: trainr: unknown key; did you mean trainer? Known keys at the top: model, adapter, data, trainer, logging, eval',
    );
    expect(errorOf(yaml({ add: '__proto__: {x: 1}' }))).toMatch(
      /^run\.yaml:7:1: __proto__: unknown key\. Known keys at the top/,
    );
    expect(errorOf(yaml({ add: '<<: {x: 1}' }))).toMatch(/^run\.yaml:7:1: <<: unknown key\. Known keys/);
  });

  it.each([
    [{ adapter: 'r: eight' }, 'run.yaml:8:3: adapter.r: found the string "eight"; expected an integer at least 1'],
    [{ adapter: 'r: 0' }, 'run.yaml:8:3: adapter.r: found 0; expected an integer at least 1'],
    [{ adapter: 'r: 1.5' }, 'run.yaml:8:3: adapter.r: found 1.5; expected an integer at least 1'],
    [
      { adapter: 'lora_dropout: 1' },
      'run.yaml:8:3: adapter.lora_dropout: found 1; expected a number at least 0 and less than 1',
    ],
    [
      { adapter: 'target_modules: []' },
      'run.yaml:8:3: adapter.target_modules: found a list; expected a non-empty list, each item a non-empty string or a non-empty string',
    ],
    [
      { adapter: 'target_modules: [1]' },
      'run.yaml:8:3: adapter.target_modules: found a list; expected a non-empty list, each item a non-empty string or a non-empty string',
    ],
    [
      { adapter: 'init_lora_weights: eva' },
      'run.yaml:8:3: adapter.init_lora_weights: found the string "eva"; expected one of true, false, gaussian, pissa, olora, orthogonal',
    ],
    [
      { adapter: 'type: dora' },
      'run.yaml:8:3: adapter.type: found the string "dora"; expected one of lora, full; did you mean lora?',
    ],
    [
      { model: 'matmul_precision: bf16' },
      'run.yaml:3:3: model.matmul_precision: found the string "bf16"; expected one of highest, high, medium',
    ],
    [
      { trainer: 'backend: nativ' },
      'run.yaml:7:3: trainer.backend: found the string "nativ"; expected one of auto, cuda, native, tensorflow, wasm, cpu; did you mean native?',
    ],
    [{ trainer: 'max_steps: 0' }, 'run.yaml:7:3: trainer.max_steps: found 0; expected -1 or an integer at least 1'],
    [
      { trainer: 'gradient_checkpointing: yes' },
      'run.yaml:7:3: trainer.gradient_checkpointing: found the string "yes"; expected true or false',
    ],
    [
      { trainer: 'learning_rate: .inf' },
      'run.yaml:7:3: trainer.learning_rate: found Infinity; expected a number greater than 0',
    ],
    [{ trainer: 'seed: -1' }, 'run.yaml:7:3: trainer.seed: found -1; expected an integer at least 0'],
    [{ trainer: 'save_total_limit:' }, undefined],
    [{ data: 'max_length: 1' }, 'run.yaml:5:3: data.max_length: found 1; expected an integer at least 2'],
    [
      { data: 'eval: test.jsonl' },
      'run.yaml:5:3: data.eval: found the string "test.jsonl"; expected a map with the keys path, hub, split, revision, text_field, prompt_field, completion_field, messages_field, instruction_field, input_field, output_field, sample_by, sources',
    ],
  ])('in a value says what was found and expected: %j', (change, message) => {
    if (message === undefined) expect(loadConfig(write(yaml(change))).config.trainer.save_total_limit).toBeNull();
    else expect(errorOf(yaml(change))).toBe(message);
  });

  it('by leaving something out says what is missing', () => {
    const message = errorOf('model: {}\ndata:\n  max_length: 8\n');
    expect(message.split('\n')).toEqual([
      'run.yaml: 3 problems',
      expect.stringMatching(/^ {2}run\.yaml:1:1: model\.path: missing; expected a non-empty string \(Base model: /),
      expect.stringMatching(
        /^ {2}run\.yaml:1:1: trainer: missing; expected a map with the keys output_dir, .* \(How to train\)$/,
      ),
      expect.stringMatching(/^ {2}run\.yaml:2:1: data\.train: missing; expected a map with the keys path, hub, /),
    ]);
  });

  it('of each kind is reported together with the others, in the order of the file', () => {
    const message = errorOf(
      yaml({ trainer: 'learning_rat: 1\nwarmup_steps: 3\nlr_scheduler_type: constant', adapter: 'r: 0' }),
      ['data.max_length=-1'],
    );
    expect(message.split('\n').map((line) => line.trim().split(': ').slice(0, 2).join(' '))).toEqual([
      'run.yaml 4 problems',
      'run.yaml:7:3 trainer.learning_rat',
      'run.yaml:8:3 trainer.warmup_steps',
      'run.yaml:11:3 adapter.r',
      '--set data.max_length data.max_length',
    ]);
  });
});

describe('keys that contradict or need each other', () => {
  it.each([
    [
      { adapter: 'type: full\n  r: 4' },
      '9:3: adapter.r: type: full trains the model itself, without an adapter; remove this key',
    ],
    [
      { adapter: 'type: full\n  modules_to_save: [lm_head]' },
      '9:3: adapter.modules_to_save: type: full trains the model itself, without an adapter; remove this key',
    ],
    [
      { adapter: 'type: full', trainer: 'loraplus_lr_ratio: 16' },
      'trainer.loraplus_lr_ratio: adapter.type: full has no lora_B to learn faster; remove one of the two',
    ],
    [
      { trainer: 'loraplus_lr_embedding: 1e-4' },
      '7:3: trainer.loraplus_lr_embedding: only loraplus_lr_ratio uses this, and it is not set',
    ],
    [
      { trainer: 'eval_strategy: epoch' },
      '7:3: trainer.eval_strategy: epoch needs data.eval, the records to evaluate on',
    ],
    [
      { trainer: 'save_strategy: steps' },
      '7:3: trainer.save_strategy: steps needs trainer.save_steps, the number of steps between',
    ],
    [{ trainer: 'save_steps: 5' }, '7:3: trainer.save_steps: only save_strategy: steps uses this, and it is epoch'],
    [{ trainer: 'eval_steps: 5' }, '7:3: trainer.eval_steps: only eval_strategy: steps uses this, and it is no'],
    [
      { trainer: 'save_strategy: no\nsave_total_limit: 2' },
      '8:3: trainer.save_total_limit: save_strategy: no saves no checkpoint; remove one of the two',
    ],
    [
      { trainer: 'warmup_steps: 5\nwarmup_ratio: 0.1' },
      '7:3: trainer.warmup_steps: warmup_ratio is set too; set one of them to 0',
    ],
    [
      { trainer: 'lr_scheduler_type: constant\nwarmup_ratio: 0.1' },
      '8:3: trainer.warmup_ratio: the constant schedule has no warm-up; use lr_scheduler_type: constant_with_warmup',
    ],
    [
      { trainer: 'group_by_length: true', data: 'packing: true' },
      '8:3: trainer.group_by_length: rows of data.packing are of about one length already; remove one of the two',
    ],
    [
      { trainer: 'group_by_length: true', data: 'shuffle: false' },
      '8:3: trainer.group_by_length: this changes the order of the records, and data.shuffle: false keeps it; remove one of the two',
    ],
    [
      { model: 'revision: v2' },
      `3:3: model.revision: "MODEL" is a local folder, which has no revisions; remove this key`,
    ],
    [
      { data: 'eval: {}' },
      '5:3: data.eval: found neither path nor hub; expected one: path (file, folder or glob) or hub (owner/name)',
    ],
    [
      { data: 'eval: {path: TRAIN, hub: a/b}' },
      '5:3: data.eval: found both path and hub; expected one: path (file, folder or glob) or hub (owner/name)',
    ],
    [{ data: 'eval: {hub: quotes}' }, '5:10: data.eval.hub: found "quotes"; expected a Hub dataset id, owner/name'],
    [
      { data: 'eval: {path: TRAIN, split: test}' },
      'data.eval.split: "TRAIN" is a file, which has no splits; remove this key',
    ],
    [
      { data: 'eval: {path: TRAIN, revision: v2}' },
      'data.eval.revision: only a Hub dataset has revisions; remove this key',
    ],
    [
      { data: 'eval: {path: TRAIN, text_field: a, prompt_field: b}' },
      'data.eval.text_field: prompt_field is set too, and records are read in one way; remove one of the two',
    ],
    [
      { data: 'eval: {sources: [{path: TRAIN, weight: 0}]}' },
      'data.eval.sources.0.weight: found 0; expected a number greater than 0',
    ],
    [
      { data: 'eval: {sources: [{path: TRAIN}, {path: TRAIN, weight: -1.5}]}' },
      'data.eval.sources.1.weight: found -1.5; expected a number greater than 0',
    ],
    [
      { data: 'eval: {sources: [{path: TRAIN}, {path: no/such.jsonl, weight: 2}]}' },
      'data.eval.sources.1.path: there is no "no/such.jsonl" (looked at ',
    ],
    [
      { data: 'eval: {sources: [{weight: 2}]}' },
      'data.eval.sources.0: found neither path nor hub; expected one: path (file, folder or glob) or hub (owner/name)',
    ],
    [
      { data: 'eval: {path: TRAIN, sources: [{path: TRAIN}]}' },
      'data.eval: found sources and path; with sources, these keys stand in its items',
    ],
    [{ data: 'eval: {path: no/such.jsonl}' }, 'data.eval.path: there is no "no/such.jsonl" (looked at '],
    [
      { adapter: 'init_from: no/adapter' },
      'adapter.init_from: there is no "no/adapter/adapter_config.json" (looked at ',
    ],
  ])('%j', (change, message) => {
    const text = yaml(change).replace('path: TRAIN', `path: ${train}`);
    expect(errorOf(text).replaceAll(train, 'TRAIN').replaceAll(model, 'MODEL')).toContain(message);
  });

  it('init_from and a choice of fresh weights', () => {
    writeFileSync(join(model, 'adapter_config.json'), '{}');
    const text = yaml({ adapter: `init_from: ${model}` });
    expect(loadConfig(write(text)).config.adapter.init_from).toBe(model);
    expect(errorOf(text, ['adapter.init_lora_weights=false'])).toBe(
      '--set adapter.init_lora_weights: adapter.init_lora_weights: the weights come from adapter.init_from; remove one of the two',
    );
  });

  it('a model that is neither a folder nor a Hub id', () => {
    expect(errorOf(yaml(), ['model.path=./no/such/model'])).toMatch(
      /^--set model\.path: model\.path: there is no "\.\/no\/such\/model" \(looked at .*\), and it is no Hub id \(owner\/name\)$/,
    );
  });
});

describe('a file that is no config', () => {
  it.each([
    ['', 'run.yaml: the file is empty; expected a map with the keys model, adapter, data, trainer, logging'],
    ['# nothing\n', 'run.yaml: the file is empty; expected a map with the keys model, adapter, data, trainer, logging'],
    ['- a\n- b\n', 'run.yaml:1:1: found a list; expected a map with the keys model, adapter, data, trainer, logging'],
    [
      'hello\n',
      'run.yaml:1:1: found the value "hello"; expected a map with the keys model, adapter, data, trainer, logging',
    ],
    [
      'model:\n  path: [a\n',
      'run.yaml:3:1: Flow sequence in block collection must be sufficiently indented and end with a ]',
    ],
    ['model: {}\nmodel: {}\n', 'run.yaml:2:1: Map keys must be unique'],
    ['model: !exec rm\n', 'run.yaml:1:8: Unresolved tag: !exec'],
    ['? [a, b]\n: 1\n', 'With stringKeys, all keys must be strings'],
    ['a: *nowhere\n', 'Unresolved alias'],
    ['a: 1\n---\nb: 1\n', 'Source contains multiple documents'],
  ])('%j', (text, message) => {
    expect(errorOf(text)).toContain(message);
  });

  it('missing, a folder, or not UTF-8', () => {
    expect(() => loadConfig(join(folder, 'none.yaml'))).toThrow(/^cannot read .*none\.yaml: there is no such file/);
    expect(() => loadConfig(join(folder, 'none.yaml'))).toThrow(ConfigError);
    expect(() => loadConfig(folder)).toThrow(/this is a folder/);
    expect(errorOf(Buffer.from([0xff, 0xfe, 0x41]))).toMatch(/not UTF-8/);
  });

  it('that would take the memory: aliases of aliases, a cycle, deep nesting, a huge file', () => {
    const bomb = Array.from(
      { length: 12 },
      (_, i) =>
        `a${i}: &a${i} [${Array(10)
          .fill(i === 0 ? 'x' : `*a${i - 1}`)
          .join(', ')}]`,
    );
    expect(errorOf(bomb.join('\n'))).toMatch(/Excessive alias count/);
    expect(errorOf('model: &a [*a]\n')).toContain('model: found a list');
    expect(errorOf(`a: ${'['.repeat(20_000)}`)).toMatch(/^run\.yaml/);
    expect(errorOf(`# ${'x'.repeat(2 ** 20)}`)).toMatch(
      /^run\.yaml: found 1048578 characters; expected a config of at most 1048576$/,
    );
  });
});

describe('loadEvalConfig', () => {
  it('takes a config with nothing but a model and data.eval', () => {
    const text = `model: {path: ${model}}\ndata:\n  eval: {path: ${train}}\n`;
    const { config } = loadEvalConfig(write(text));
    expect(config.data.eval?.path).toBe(train);
    expect(config.data.train).toBeNull();
    expect(config.trainer).toMatchObject({ output_dir: null, backend: 'auto', per_device_eval_batch_size: 8 });
    expect(loadEvalConfig(write(formatConfig(config))).config).toEqual(config);
  });

  it('needs data.eval, and does not look at what only training uses', () => {
    expect(errorOf(yaml(), [], loadEvalConfig)).toMatch(
      /^run\.yaml:3:1: data\.eval: missing; expected the records to evaluate on/,
    );
    const text = yaml({ data: `eval: {path: ${train}}` }).replace(
      `train: {path: ${train}}`,
      'train: {path: gone.jsonl}',
    );
    expect(loadEvalConfig(write(text)).config.data.train?.path).toBe('gone.jsonl');
  });
});
