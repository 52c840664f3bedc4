// SPDX-License-Identifier: Apache-2.0
/** What is fuzzed: the readers of the commands, each with the files that are damaged and where they go. */
import { createHash } from 'node:crypto';
import { cpSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { tableFromArrays, tableToIPC, vectorFromArray } from 'apache-arrow';
import { mutateBytes, mutateJson, mutateSafetensors, mutateText } from './mutate.mjs';

const GOLDEN = 'test/golden/tied';

/**
 * @typedef {object} Target
 * @property {(folder: string) => Buffer[]} seeds whole files
 * @property {string} file name of the damaged file in the folder that `read` gets
 * @property {(bytes: Buffer, random: object, other: Buffer) => Buffer} mutate
 * @property {(folder: string) => unknown} [prepare] puts into the folder what stands beside it; awaited, before `seeds`
 * @property {(folder: string) => unknown} read reads as a command would; awaited
 */

/** The library as it is installed, and those of its readers that its door does not show. */
const library = await import('../../../dist/src/index.js');
const { openCheckpoint } = await import('../../../dist/src/checkpoint/checkpoint.js');
const { checkTensors } = await import('../../../dist/src/checkpoint/expected_tensors.js');
const { loadTokenizer } = await import('../../../dist/src/tokenizer/tokenizer.js');
const { formatOf } = await import('../../../dist/datasets/formats.js');
const tokenCache = await import('../../../dist/datasets/token_cache.js');
const { UserError } = await import('../../../dist/src/errors.js');
const checkpoints = await import('../../../dist/trainer/checkpoints.js');
const { createAdamw } = await import('../../../dist/trainer/optimizer.js');
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

const inFolder = (name) => (folder) => [readFileSync(join(folder, name))];

const CHECKPOINT_STATE = JSON.parse(readFileSync('test/helpers/trainer_state.json', 'utf8'));

let optimizer;
/** Makes a whole checkpoint of the golden adapter in the folder itself. */
async function prepareCheckpoint(folder) {
  model ??= await library.MambaForCausalLM.fromPretrained(`${GOLDEN}/model`, { backend: 'cpu' });
  const adapter = library.PeftModel.fromPretrained(model, ADAPTER, { trainable: true });
  const settings = { beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0, maxGradNorm: 1 };
  optimizer = createAdamw(adapter.model.trainableParameters(), settings);
  const made = await checkpoints.saveTrainingCheckpoint(join(folder, '..'), adapter, optimizer, CHECKPOINT_STATE);
  cpSync(made, folder, { recursive: true });
}

/** Reads a checkpoint as a resumed run does; `mend` lists its damaged file as if it had been written so. */
const readCheckpoint = (mend) => (folder) => {
  if (mend) {
    const names = readdirSync(folder).filter((name) => name !== 'SHA256SUMS');
    const sum = (name) =>
      createHash('sha256')
        .update(readFileSync(join(folder, name)))
        .digest('hex');
    writeFileSync(join(folder, 'SHA256SUMS'), names.map((name) => `${sum(name)}  ${name}\n`).join(''));
  }
  const found = checkpoints.readCheckpoint(folder);
  if ('fault' in found) throw new UserError(found.fault);
  optimizer.restore(checkpoints.optimizerFile(found));
};

const CACHE_KEY = { files: ['a'], tokenizer: ['b'], options: { maxLength: 8 } };
async function prepareCache(folder) {
  const writer = tokenCache.createCacheWriter(join(folder, 'tokens.arrow'), CACHE_KEY);
  const inputIds = Int32Array.from({ length: 60 }, (_, i) => i);
  writer.add({ inputIds, labels: inputIds, offsets: Int32Array.of(0, 3, 20, 60) });
  await writer.finish({ report: { name: 'x', records: 3 }, messages: ['one'] });
}

async function readCache(folder) {
  const distrust = (reason) => {
    throw new UserError(reason);
  };
  const cache = await tokenCache.openTokenCache(join(folder, 'tokens.arrow'), CACHE_KEY, distrust);
  for (let index = 0; index < cache.examples.length; index++) cache.examples.at(index);
  cache.close();
}

const foreign = (...names) => names.map((name) => readFileSync(join('test/datasets/files', name)));

/** A table of columns that the foreign files lack, with dictionaries. */
function arrowTable() {
  const words = Array.from({ length: 40 }, (_, i) => ['one', 'two', null, 'four'][i % 4]);
  return tableFromArrays({
    word: vectorFromArray(words),
    numbers: vectorFromArray(words.map((_, i) => (i % 3 === 0 ? null : [i, i + 1]))),
    pair: vectorFromArray(words.map((_, i) => ({ left: i % 2 === 0, right: i / 3 }))),
    day: vectorFromArray(words.map((_, i) => new Date(86_400_000 * i))),
    big: BigInt64Array.from(words, (_, i) => BigInt(i) << 40n),
  });
}

/** Every row of a data file. */
const readRows = (name) => async (folder) => {
  const path = join(folder, name);
  for await (const row of formatOf(path).read({ path, name }, 'line')) if ('fault' in row) throw row.fault;
};

/** @param bytes of which damage tells most at the head of the metadata, all over the file */
const mutateTable = (bytes, random, other) => mutateBytes(bytes, random, other, { head: 4096, tail: 4096 });

/** @type {Record<string, Target>} */
export const TARGETS = {
  jsonl: {
    seeds: () => records.map((text) => Buffer.from(text)),
    file: 'train.jsonl',
    mutate: mutateText,
    read: (folder) => library.loadDataset(join(folder, 'train.jsonl')),
  },
  csv: {
    seeds: () => foreign('pandas.csv', 'pandas_bom_crlf.csv'),
    file: 'train.csv',
    mutate: mutateText,
    read: readRows('train.csv'),
  },
  'arrow file': {
    seeds: () => [
      ...foreign('uncompressed.feather', 'lz4.feather', 'zstd.feather'),
      Buffer.from(tableToIPC(arrowTable(), 'file')),
    ],
    file: 'train.arrow',
    mutate: mutateTable,
    read: readRows('train.arrow'),
  },
  'arrow stream': {
    seeds: () => [...foreign('stream.arrow'), Buffer.from(tableToIPC(arrowTable(), 'stream'))],
    file: 'train.arrow',
    mutate: mutateTable,
    read: readRows('train.arrow'),
  },
  parquet: {
    seeds: () => foreign(...['none', 'snappy', 'gzip', 'zstd', 'brotli', 'lz4', 'v2'].map((name) => `${name}.parquet`)),
    file: 'train.parquet',
    mutate: mutateTable,
    read: readRows('train.parquet'),
  },
  'jsonl.gz': {
    seeds: () => records.map((text) => gzipSync(text.repeat(50))),
    file: 'train.jsonl.gz',
    mutate: mutateBytes,
    read: readRows('train.jsonl.gz'),
  },
  'jsonl.zst': {
    seeds: () => foreign('lines.jsonl.zst'),
    file: 'train.jsonl.zst',
    mutate: mutateBytes,
    read: readRows('train.jsonl.zst'),
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
  'trainer_state.json': {
    prepare: prepareCheckpoint,
    seeds: inFolder('trainer_state.json'),
    file: 'trainer_state.json',
    mutate: mutateJson,
    read: readCheckpoint(true),
  },
  'optimizer.safetensors': {
    prepare: prepareCheckpoint,
    seeds: inFolder('optimizer.safetensors'),
    file: 'optimizer.safetensors',
    mutate: mutateSafetensors,
    read: readCheckpoint(true),
  },
  SHA256SUMS: {
    prepare: prepareCheckpoint,
    seeds: inFolder('SHA256SUMS'),
    file: 'SHA256SUMS',
    mutate: mutateText,
    read: readCheckpoint(false),
  },
  'token cache': {
    prepare: prepareCache,
    seeds: inFolder('tokens.arrow'),
    file: 'tokens.arrow',
    mutate: mutateBytes,
    read: readCache,
  },
  'token cache, description': {
    prepare: prepareCache,
    seeds: inFolder('tokens.json'),
    file: 'tokens.json',
    mutate: mutateJson,
    read: readCache,
  },
};
