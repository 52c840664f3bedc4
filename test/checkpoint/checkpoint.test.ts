// SPDX-License-Identifier: Apache-2.0
import { cpSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openCheckpoint, readModelConfig } from '../../src/checkpoint/checkpoint.ts';
import { checkTensors, expectedTensors } from '../../src/checkpoint/expected_tensors.ts';
import { openSafetensors } from '../../src/checkpoint/safetensors.ts';
import { writeSafetensors } from '../../src/checkpoint/safetensors_writer.ts';
import { saveCheckpoint } from '../../src/checkpoint/save_checkpoint.ts';
import type { TensorSource } from '../../src/checkpoint/tensor_source.ts';
import { UserError } from '../../src/errors.ts';
import { MambaConfig } from '../../src/model/config.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

const GOLDEN = join(import.meta.dirname, '../golden');
const TIED = join(GOLDEN, 'tied/model');

function allValues(source: TensorSource): Map<string, Float32Array> {
  return new Map([...expectedTensors(openConfig()).keys()].map((name) => [name, source.readFloat32(name)]));
}

function openConfig(): MambaConfig {
  return readModelConfig(TIED);
}

/** A copy of the tied golden model that a test may spoil. */
function modelCopy(from = TIED): string {
  const folder = join(temporaryFolder(), 'model');
  cpSync(from, folder, { recursive: true });
  return folder;
}

/** Replaces a tensor list in a model copy. */
function rewrite(
  folder: string,
  change: (tensors: Map<string, { shape: number[]; data: Float32Array }>) => void,
): void {
  const path = join(folder, 'model.safetensors');
  const source = openSafetensors(path);
  const tensors = new Map<string, { shape: number[]; data: Float32Array }>();
  for (const { name, shape } of source.entries.values()) {
    tensors.set(name, { shape: [...shape], data: source.readFloat32(name) });
  }
  source.close();
  change(tensors);
  writeSafetensors(
    path,
    [...tensors].map(([name, { shape, data }]) => ({ name, shape, dtype: 'F32', data: () => data })),
  );
}

test.each([
  ['model', 'hf'],
  ['model-sharded', 'hf'],
  ['model-original', 'state-spaces'],
])('tied/%s opens with the same tensors', (name, layout) => {
  const checkpoint = openCheckpoint(join(GOLDEN, 'tied', name));
  const reference = openCheckpoint(TIED);
  expect(checkpoint.layout).toBe(layout);
  expect(checkpoint.config).toMatchObject({ hiddenSize: 32, numHiddenLayers: 2, vocabSize: 97, timeStepRank: 2 });
  checkTensors(checkpoint.config, checkpoint.source);
  expect(allValues(checkpoint.source)).toEqual(allValues(reference.source));
  expect(checkpoint.generationConfig?.use_cache).toBe(layout === 'hf' ? true : undefined);
  checkpoint.source.close();
  reference.source.close();
});

test.each(['rslora/model', 'dora/model', '../../models/mamba-5m'])('%s is what its config says', (name) => {
  const { config, source } = openCheckpoint(join(GOLDEN, name));
  checkTensors(config, source);
  source.close();
});

test('mamba-5m has the parameters its card says', () => {
  const shapes = expectedTensors(readModelConfig(join(GOLDEN, '../../models/mamba-5m')));
  const total = [...shapes.values()].reduce(
    (sum, shape) => sum + shape.reduce((product, size) => product * size, 1),
    0,
  );
  expect(total).toBe(4_552_960);
});

test('the published sizes', () => {
  const count = (hiddenSize: number, numHiddenLayers: number) =>
    [...expectedTensors(new MambaConfig({ hiddenSize, numHiddenLayers })).values()].reduce(
      (sum, shape) => sum + shape.reduce((product, size) => product * size, 1),
      0,
    );
  expect(count(768, 24)).toBe(129_135_360);
  expect(count(1024, 48)).toBe(371_516_416);
  expect(count(2560, 64)).toBe(2_768_345_600);
});

test('optional tensors follow the config', () => {
  const names = (fields: ConstructorParameters<typeof MambaConfig>[0]) =>
    [
      ...expectedTensors(new MambaConfig({ hiddenSize: 16, numHiddenLayers: 1, vocabSize: 5, ...fields })).keys(),
    ].sort();
  const plain = names({});
  expect(names({ useBias: true }).filter((name) => !plain.includes(name))).toEqual([
    'backbone.layers.0.mixer.in_proj.bias',
    'backbone.layers.0.mixer.out_proj.bias',
  ]);
  expect(plain.filter((name) => !names({ useConvBias: false }).includes(name))).toEqual([
    'backbone.layers.0.mixer.conv1d.bias',
  ]);
  expect(names({ tieWordEmbeddings: false }).filter((name) => !plain.includes(name))).toEqual(['lm_head.weight']);
});

test('every tensor that differs is in one error', () => {
  const folder = modelCopy();
  rewrite(folder, (tensors) => {
    tensors.delete('backbone.layers.1.mixer.D');
    tensors.set('backbone.norm_f.weight', { shape: [31], data: new Float32Array(31) });
    tensors.set('backbone.layers.2.norm.weight', { shape: [32], data: new Float32Array(32) });
  });
  const { config, source } = openCheckpoint(folder);
  expect(() => checkTensors(config, source)).toThrow(UserError);
  expect(() => checkTensors(config, source)).toThrow(
    `model.safetensors does not hold the model its config.json describes; 3 tensors differ:
  missing: backbone.layers.1.mixer.D [64]
  wrong shape: backbone.norm_f.weight is [31], expected [32]
  not expected: backbone.layers.2.norm.weight [32]`,
  );
  source.close();
});

test('more layers than the file could hold, before they are counted out', () => {
  const folder = modelCopy();
  const { config, source } = openCheckpoint(folder);
  const many = Object.assign(config, { numHiddenLayers: 4_000_000_000 });
  expect(() => checkTensors(many, source)).toThrow(
    /model.safetensors does not hold the model its config.json describes: found \d+ tensors, which cannot be those of 4000000000 layers/,
  );
  source.close();
});

test('an integer tensor where a float is expected', () => {
  const folder = temporaryFolder();
  const config = new MambaConfig({ hiddenSize: 16, numHiddenLayers: 1, vocabSize: 5 });
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  writeSafetensors(
    join(folder, 'model.safetensors'),
    [...expectedTensors(config)].map(([name, shape]) => ({
      name,
      shape,
      dtype: name.endsWith('.D') ? 'I32' : 'F32',
      data: () => {
        const size = shape.reduce((product, length) => product * length, 1);
        return name.endsWith('.D') ? new Int32Array(size) : new Float32Array(size);
      },
    })),
  );
  const { source } = openCheckpoint(folder);
  expect(() => checkTensors(config, source)).toThrow(
    'wrong dtype: backbone.layers.0.mixer.D is I32, expected F32, BF16, F16 or F64',
  );
  source.close();
});

test('a tied model may repeat its embedding as head, but not have another head', () => {
  const folder = modelCopy();
  rewrite(folder, (tensors) => {
    const embedding = tensors.get('backbone.embeddings.weight');
    if (embedding) tensors.set('lm_head.weight', embedding);
  });
  const same = openCheckpoint(folder);
  checkTensors(same.config, same.source);
  same.source.close();
  rewrite(folder, (tensors) => {
    tensors.set('lm_head.weight', { shape: [97, 32], data: new Float32Array(97 * 32) });
  });
  const other = openCheckpoint(folder);
  expect(() => checkTensors(other.config, other.source)).toThrow(
    'config.json ties the head to the embedding (tie_word_embeddings), but lm_head.weight differs from backbone.embeddings.weight.',
  );
  other.source.close();
});

test('missing files: what was looked for and what is there', () => {
  const folder = temporaryFolder();
  expect(() => openCheckpoint(folder)).toThrow(
    `${folder} is no model folder: looked for config.json; found an empty folder.`,
  );
  writeFileSync(join(folder, 'config.json'), '{}');
  writeFileSync(join(folder, 'weights.gguf'), '');
  expect(() => openCheckpoint(folder)).toThrow(
    'looked for model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json; found config.json, weights.gguf.',
  );
  expect(() => openCheckpoint(join(folder, 'none'))).toThrow('there is no such file; check the path (ENOENT).');
  expect(() => openCheckpoint(join(folder, 'config.json'))).toThrow('is a file; expected a model folder');
});

test('a broken config.json names line and column', () => {
  const folder = modelCopy();
  writeFileSync(join(folder, 'config.json'), '{\n  "vocab_size": 97,\n}');
  expect(() => openCheckpoint(folder)).toThrow(
    'config.json:3:1: this is not valid JSON: expected a key in double quotes',
  );
});

function spoilIndex(change: (index: { weight_map: Record<string, unknown> }, folder: string) => void): string {
  const folder = modelCopy(join(GOLDEN, 'tied/model-sharded'));
  const path = join(folder, 'model.safetensors.index.json');
  const index = JSON.parse(readFileSync(path, 'utf8')) as { weight_map: Record<string, unknown> };
  change(index, folder);
  writeFileSync(path, JSON.stringify(index));
  return folder;
}

test.each([
  '../secret.safetensors',
  'a/../../secret.safetensors',
  '/etc/passwd',
  'C:\\secret.safetensors',
  '..\\secret.safetensors',
])('a shard path that leaves the folder is refused: %s', (shard) => {
  const folder = spoilIndex((index) => {
    index.weight_map['backbone.norm_f.weight'] = shard;
  });
  expect(() => openCheckpoint(folder)).toThrow(UserError);
  expect(() => openCheckpoint(folder)).toThrow(
    `model.safetensors.index.json: the shard path ${JSON.stringify(shard)} leaves the model folder, and is refused.`,
  );
});

test('missing shards are listed together', () => {
  const folder = spoilIndex((_, at) => {
    rmSync(join(at, 'model-00002-of-00009.safetensors'));
    rmSync(join(at, 'model-00007-of-00009.safetensors'));
  });
  expect(() => openCheckpoint(folder)).toThrow(
    'names 9 shard files, and 2 are missing from the folder: model-00002-of-00009.safetensors, model-00007-of-00009.safetensors.',
  );
});

test('an index that does not fit its shards', () => {
  const wrongPlace = spoilIndex((index) => {
    index.weight_map['backbone.norm_f.weight'] = 'model-00001-of-00009.safetensors';
  });
  expect(() => openCheckpoint(wrongPlace)).toThrow(
    'tensor backbone.norm_f.weight should be in model-00001-of-00009.safetensors and is not.',
  );
  const twice = spoilIndex((index, at) => {
    cpSync(join(at, 'model-00001-of-00009.safetensors'), join(at, 'copy.safetensors'));
    index.weight_map.x = 'copy.safetensors';
  });
  expect(() => openCheckpoint(twice)).toThrow(
    'tensor backbone.embeddings.weight is in two shards, the second copy.safetensors.',
  );
  const noFile = spoilIndex((index) => {
    index.weight_map.x = 3;
  });
  expect(() => openCheckpoint(noFile)).toThrow('weight_map["x"] is 3; expected a file name.');
  const otherKind = spoilIndex((index) => {
    index.weight_map.x = 'config.json';
  });
  expect(() => openCheckpoint(otherKind)).toThrow('the shard "config.json" is no .safetensors or .bin file.');
});

test('torch shards open through their index', () => {
  const folder = modelCopy(join(GOLDEN, 'tied/model-original'));
  renameSync(join(folder, 'pytorch_model.bin'), join(folder, 'pytorch_model-00001-of-00001.bin'));
  const index = { weight_map: { 'backbone.embedding.weight': 'pytorch_model-00001-of-00001.bin' } };
  writeFileSync(join(folder, 'pytorch_model.bin.index.json'), JSON.stringify(index));
  const { config, source, layout } = openCheckpoint(folder);
  expect(layout).toBe('state-spaces');
  checkTensors(config, source);
  source.close();
});

test.each([undefined, 5000])('saves what it opens, shards of %s bytes', async (maxShardSize) => {
  const folder = join(temporaryFolder(), 'saved');
  const from = openCheckpoint(TIED);
  const tokenizer = join(GOLDEN, '../../models/mamba-5m/tokenizer_config.json');
  const tensors = [...expectedTensors(from.config)].map(([name, shape]) => ({
    name,
    shape,
    data: () => from.source.readFloat32(name),
  }));
  await saveCheckpoint(folder, from.config, tensors, { maxShardSize, extraFiles: [tokenizer] });
  const saved = openCheckpoint(folder);
  checkTensors(saved.config, saved.source);
  expect(allValues(saved.source)).toEqual(allValues(from.source));
  expect(saved.config).toEqual(from.config);
  expect(saved.generationConfig).toMatchObject({ bos_token_id: 0, eos_token_id: 0, pad_token_id: 0 });
  const files = readdirSync(folder);
  expect(files).toContain('tokenizer_config.json');
  if (maxShardSize === undefined) {
    expect(readFileSync(join(folder, 'model.safetensors')).equals(readFileSync(join(TIED, 'model.safetensors')))).toBe(
      true,
    );
  } else {
    const index = JSON.parse(readFileSync(join(folder, 'model.safetensors.index.json'), 'utf8'));
    expect(index.metadata.total_size).toBe(92160);
    expect(new Set(Object.values(index.weight_map))).toEqual(
      new Set(files.filter((name) => name.startsWith('model-'))),
    );
  }
  saved.source.close();
  from.source.close();
});

test('saving in bfloat16 says so in config.json', async () => {
  const folder = join(temporaryFolder(), 'saved');
  const config = MambaConfig.fromJSON(
    { hidden_size: 16, num_hidden_layers: 1, vocab_size: 5, torch_dtype: 'float32' },
    'x',
  );
  const tensors = [...expectedTensors(config)].map(([name, shape]) => ({
    name,
    shape,
    data: () => new Float32Array(shape.reduce((product, size) => product * size, 1)).fill(1),
  }));
  await saveCheckpoint(folder, config, tensors, { dtype: 'BF16' });
  const saved = openCheckpoint(folder);
  expect(saved.source.entries.get('backbone.norm_f.weight')?.dtype).toBe('BF16');
  const json = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'));
  expect(json.dtype).toBe('bfloat16');
  expect(json.torch_dtype).toBeUndefined();
  saved.source.close();
});

test('saving leaves a folder that is not empty alone, and nothing after a failure', async () => {
  const parent = temporaryFolder();
  const folder = join(parent, 'out');
  mkdirSync(folder);
  writeFileSync(join(folder, 'mine.txt'), 'mine');
  const config = new MambaConfig({ hiddenSize: 16, numHiddenLayers: 1, vocabSize: 5 });
  await expect(saveCheckpoint(folder, config, [])).rejects.toThrow(`${folder} is not empty; choose another folder`);
  const failing = {
    name: 'x',
    shape: [1],
    data: () => {
      throw new Error('stop');
    },
  };
  await expect(saveCheckpoint(folder, config, [failing], { overwrite: true })).rejects.toThrow('stop');
  expect(readdirSync(parent)).toEqual(['out']);
  expect(readdirSync(folder)).toEqual(['mine.txt']);
});
