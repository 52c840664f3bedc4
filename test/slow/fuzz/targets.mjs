// SPDX-License-Identifier: Apache-2.0
/** What is fuzzed: the readers of the commands, each with the files that are damaged and where they go. */
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { mutateBytes, mutateJson, mutateSafetensors, mutateText } from './mutate.mjs';

const GOLDEN = 'test/golden/tied';

/**
 * @typedef {object} Target
 * @property {() => Buffer[]} seeds whole files
 * @property {string} file name of the damaged file in the folder that `read` gets
 * @property {(bytes: Buffer, random: object, other: Buffer) => Buffer} mutate
 * @property {(folder: string) => void} [prepare] puts into the folder what stands beside it
 * @property {(folder: string) => unknown} read reads as a command would; awaited
 */

/** The library as it is installed, and those of its readers that its door does not show. */
const library = await import('../../../dist/src/index.js');
const { openCheckpoint } = await import('../../../dist/src/checkpoint/checkpoint.js');
const { checkTensors } = await import('../../../dist/src/checkpoint/expected_tensors.js');
const { loadTokenizer } = await import('../../../dist/src/tokenizer/tokenizer.js');
const { readAdapter } = await import('../../../dist/adapters/peft_files.js');

const file = (path) => () => [readFileSync(path)];
const copy = (from, names) => (folder) => {
  for (const name of names) cpSync(join(from, name), join(folder, name));
};

/** Every tensor of a model folder, as loading the model reads them. */
function readModel(folder) {
  const { config, source } = openCheckpoint(folder);
  try {
    checkTensors(config, source);
    for (const name of source.entries.keys()) source.readFloat32(name);
  } finally {
    source.close();
  }
}

const records = [
  '{"text": "A first line, with “quotes” and a tab\\t."}\n{"text": "Zweite Zeile"}\r\n\n{"text": "third"}\n',
  '{"prompt": "politician, n.", "completion": "An eel in the fundamental mud."}\n{"prompt": "", "completion": "x"}\n',
  '{"input_ids": [1, 2, 3, 400], "labels": [-100, 2, 3, 400]}\n{"input_ids": [5, 6]}\n',
];

const tokenizer = {
  version: '1.0',
  truncation: null,
  padding: null,
  added_tokens: [
    {
      id: 0,
      content: '<|endoftext|>',
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    },
  ],
  normalizer: { type: 'NFC' },
  pre_tokenizer: {
    type: 'Sequence',
    pretokenizers: [
      { type: 'Split', pattern: { Regex: '\\p{N}' }, behavior: 'Isolated', invert: false },
      { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    ],
  },
  post_processor: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
  decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
  model: {
    type: 'BPE',
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    vocab: { '<|endoftext|>': 0, a: 1, b: 2, c: 3, Ġ: 4, ab: 5, abc: 6, Ġa: 7, 1: 8, Ã: 9, '¤': 10 },
    merges: [
      ['a', 'b'],
      ['ab', 'c'],
      ['Ġ', 'a'],
    ],
  },
};

const config = `# a run
model: {path: ${GOLDEN}/model, matmul_precision: highest}
adapter:
  r: 8
  lora_alpha: 8.0
  target_modules: [x_proj, embeddings, in_proj, out_proj]
data:
  train: &source
    path: datasets/quickstart/train.jsonl
  eval: {path: "datasets/quickstart/test.jsonl"}
  max_length: 256
trainer:
  output_dir: runs/fuzz
  num_train_epochs: 3
  learning_rate: 2.0e-3
  eval_strategy: epoch
  save_strategy: 'steps'
  save_steps: 10
`;

const ADAPTER = `${GOLDEN}/adapter`;
let model;
/** Reads an adapter for a loaded model, as training and generation do. */
async function readAdapterFolder(folder) {
  model ??= await library.MambaForCausalLM.fromPretrained(`${GOLDEN}/model`, { backend: 'cpu' });
  return readAdapter(folder, model);
}

/** @type {Record<string, Target>} */
export const TARGETS = {
  jsonl: {
    seeds: () => records.map((text) => Buffer.from(text)),
    file: 'train.jsonl',
    mutate: mutateText,
    read: (folder) => library.loadDataset(join(folder, 'train.jsonl')),
  },
  yaml: {
    seeds: () => [Buffer.from(config), readFileSync('configs/quickstart.yaml')],
    file: 'run.yaml',
    mutate: mutateText,
    read: (folder) => library.loadConfig(join(folder, 'run.yaml')),
  },
  safetensors: {
    seeds: file(`${GOLDEN}/model/model.safetensors`),
    file: 'model.safetensors',
    mutate: mutateSafetensors,
    prepare: copy(`${GOLDEN}/model`, ['config.json']),
    read: readModel,
  },
  'config.json': {
    seeds: () =>
      [`${GOLDEN}/model/config.json`, `${GOLDEN}/model-original/config.json`].map((path) => readFileSync(path)),
    file: 'config.json',
    mutate: mutateJson,
    prepare: copy(`${GOLDEN}/model`, ['model.safetensors']),
    read: readModel,
  },
  'model.safetensors.index.json': {
    seeds: file(`${GOLDEN}/model-sharded/model.safetensors.index.json`),
    file: 'model.safetensors.index.json',
    mutate: mutateJson,
    prepare: (folder) => cpSync(`${GOLDEN}/model-sharded`, folder, { recursive: true }),
    read: readModel,
  },
  'pytorch_model.bin': {
    seeds: file(`${GOLDEN}/model-original/pytorch_model.bin`),
    file: 'pytorch_model.bin',
    mutate: (bytes, random, other) => mutateBytes(bytes, random, other, { head: 6000, tail: 4000 }),
    prepare: copy(`${GOLDEN}/model-original`, ['config.json']),
    read: readModel,
  },
  'adapter_config.json': {
    seeds: file(`${ADAPTER}/adapter_config.json`),
    file: 'adapter_config.json',
    mutate: mutateJson,
    prepare: copy(ADAPTER, ['adapter_model.safetensors']),
    read: readAdapterFolder,
  },
  'adapter_model.safetensors': {
    seeds: file(`${ADAPTER}/adapter_model.safetensors`),
    file: 'adapter_model.safetensors',
    mutate: mutateSafetensors,
    prepare: copy(ADAPTER, ['adapter_config.json']),
    read: readAdapterFolder,
  },
  'tokenizer.json': {
    seeds: () => [Buffer.from(JSON.stringify(tokenizer))],
    file: 'tokenizer.json',
    mutate: mutateJson,
    prepare: (folder) =>
      writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify({ eos_token: '<|endoftext|>' })),
    read: (folder) => {
      const { encode, decode } = loadTokenizer(folder);
      return decode(encode('abc a ab 11 <|endoftext|> cab ä'));
    },
  },
};
