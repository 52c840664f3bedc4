// SPDX-License-Identifier: Apache-2.0
/** Opens a model folder: single or sharded safetensors or torch files, in Hugging Face's or the original naming. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { isAbsolute, join, normalize, sep } from 'node:path';
import { UserError } from '../errors.ts';
import { fileError, readJsonFile } from '../files.ts';
import { isJsonObject } from '../json.ts';
import { MambaConfig } from '../model/config.ts';
import { openSafetensors } from './safetensors.ts';
import type { TensorEntry, TensorSource } from './tensor_source.ts';
import { openTorchPickle } from './torch_pickle.ts';

export interface Checkpoint {
  readonly config: MambaConfig;
  /** The tensors, under Hugging Face's names whatever the file calls them. Close it when done. */
  readonly source: TensorSource;
  /** The naming found in the file. */
  readonly layout: 'hf' | 'state-spaces';
  /** generation_config.json, where there is one. */
  readonly generationConfig?: Readonly<Record<string, unknown>>;
}

/** Weight files, best first. */
const WEIGHT_FILES = [
  'model.safetensors',
  'model.safetensors.index.json',
  'pytorch_model.bin',
  'pytorch_model.bin.index.json',
] as const;

/** The one name that the original and Hugging Face's checkpoints do not share. */
const STATE_SPACES_EMBEDDING = 'backbone.embedding.weight';
const EMBEDDING = 'backbone.embeddings.weight';

/**
 * Opens a model folder. Only headers are read; `source` reads a tensor when asked.
 *
 * @param folder with config.json and one of model.safetensors, model.safetensors.index.json, pytorch_model.bin,
 *   pytorch_model.bin.index.json (looked for in this order)
 * @throws UserError when a file is missing (it lists what was looked for and what is there), damaged or refused
 */
export function openCheckpoint(folder: string): Checkpoint {
  const present = listFolder(folder);
  const config = readConfig(folder, present);
  const weights = WEIGHT_FILES.find((name) => present.includes(name));
  if (weights === undefined) throw missingFile(folder, WEIGHT_FILES.join(', '), present);
  const generationPath = join(folder, 'generation_config.json');
  const generationConfig = existsSync(generationPath) ? readJsonFile(generationPath) : undefined;

  const path = join(folder, weights);
  const source = weights.endsWith('.index.json') ? openShards(folder, weights) : openWeightFile(path);
  const isOriginal = source.entries.has(STATE_SPACES_EMBEDDING) && !source.entries.has(EMBEDDING);
  return {
    config,
    source: isOriginal ? renameTensor(source, STATE_SPACES_EMBEDDING, EMBEDDING) : source,
    layout: isOriginal ? 'state-spaces' : 'hf',
    generationConfig,
  };
}

/**
 * The model configuration of a folder.
 * @throws UserError when config.json is missing or wrong
 */
export function readModelConfig(folder: string): MambaConfig {
  return readConfig(folder, listFolder(folder));
}

function readConfig(folder: string, present: readonly string[]): MambaConfig {
  if (!present.includes('config.json')) throw missingFile(folder, 'config.json', present);
  const path = join(folder, 'config.json');
  return MambaConfig.fromJSON(readJsonFile(path), path);
}

function listFolder(folder: string): string[] {
  try {
    if (statSync(folder).isFile()) {
      throw new UserError(`${folder} is a file; expected a model folder (with config.json and the weights in it).`);
    }
    return readdirSync(folder).sort();
  } catch (error) {
    throw fileError(error, folder, 'read');
  }
}

function missingFile(folder: string, wanted: string, present: readonly string[]): UserError {
  const shown = present.slice(0, 20).join(', ') + (present.length > 20 ? `, and ${present.length - 20} more` : '');
  return new UserError(
    `${folder} is no model folder: looked for ${wanted}; found ${present.length === 0 ? 'an empty folder' : shown}.`,
  );
}

function openWeightFile(path: string): TensorSource {
  return path.endsWith('.safetensors') ? openSafetensors(path) : openTorchPickle(path);
}

/** The tensors of all shard files of an index, as one source. */
function openShards(folder: string, indexName: string): TensorSource {
  const indexPath = join(folder, indexName);
  const weightMap = readWeightMap(indexPath);
  const fileNames = [...new Set(weightMap.values())];
  for (const name of fileNames) refuseOutsidePath(indexPath, name);
  const missing = fileNames.filter((name) => !existsSync(join(folder, name)));
  if (missing.length > 0) {
    throw new UserError(
      `${indexPath} names ${fileNames.length} shard files, and ${missing.length} are missing from the folder: ${missing.join(', ')}. Fetch them again.`,
    );
  }

  const shards = new Map<string, TensorSource>();
  const close = () => {
    for (const shard of shards.values()) shard.close();
  };
  try {
    for (const name of fileNames) shards.set(name, openWeightFile(join(folder, name)));
    return shardedSource(folder, indexPath, weightMap, shards, close);
  } catch (error) {
    close();
    throw error;
  }
}

function shardedSource(
  folder: string,
  indexPath: string,
  weightMap: ReadonlyMap<string, string>,
  shards: ReadonlyMap<string, TensorSource>,
  close: () => void,
): TensorSource {
  const entries = new Map<string, TensorEntry>();
  const homes = new Map<string, TensorSource>();
  for (const [shardName, shard] of shards) {
    for (const [name, entry] of shard.entries) {
      if (homes.has(name))
        throw new UserError(`${indexPath}: tensor ${name} is in two shards, the second ${shardName}.`);
      entries.set(name, entry);
      homes.set(name, shard);
    }
  }
  for (const [name, shardName] of weightMap) {
    if (homes.get(name) !== shards.get(shardName)) {
      throw new UserError(`${indexPath}: tensor ${name} should be in ${shardName} and is not. Fetch the shards again.`);
    }
  }
  const home = (name: string): TensorSource => {
    const shard = homes.get(name);
    if (!shard) throw new UserError(`${indexPath}: there is no tensor ${name} in these shards.`);
    return shard;
  };
  return {
    path: folder,
    entries,
    metadata: [...shards.values()][0]?.metadata ?? {},
    readFloat32: (name, rows) => home(name).readFloat32(name, rows),
    readInt32: (name) => home(name).readInt32(name),
    close,
  };
}

function readWeightMap(indexPath: string): Map<string, string> {
  const map = readJsonFile(indexPath).weight_map;
  if (!isJsonObject(map))
    throw new UserError(`${indexPath}: expected an object "weight_map" from tensor names to files.`);
  return new Map(
    Object.entries(map).map(([name, file]) => {
      if (typeof file === 'string') return [name, file];
      throw new UserError(
        `${indexPath}: weight_map[${JSON.stringify(name)}] is ${JSON.stringify(file)}; expected a file name.`,
      );
    }),
  );
}

function refuseOutsidePath(indexPath: string, name: string): void {
  const path = normalize(name.replaceAll('\\', '/'));
  if (isAbsolute(path) || /^[a-zA-Z]:/.test(path) || path === '..' || path.startsWith(`..${sep}`)) {
    throw new UserError(
      `${indexPath}: the shard path ${JSON.stringify(name)} leaves the model folder, and is refused.`,
    );
  }
  if (!/\.(safetensors|bin)$/.test(path)) {
    throw new UserError(`${indexPath}: the shard ${JSON.stringify(name)} is no .safetensors or .bin file.`);
  }
}

function renameTensor(source: TensorSource, from: string, to: string): TensorSource {
  const rename = (name: string) => (name === from ? to : name);
  const restore = (name: string) => (name === to ? from : name);
  const entries = new Map<string, TensorEntry>();
  for (const [name, entry] of source.entries) {
    const aliasOf = entry.aliasOf === undefined ? undefined : rename(entry.aliasOf);
    entries.set(rename(name), { ...entry, name: rename(name), aliasOf });
  }
  return {
    path: source.path,
    entries,
    metadata: source.metadata,
    readFloat32: (name, rows) => source.readFloat32(restore(name), rows),
    readInt32: (name) => source.readInt32(restore(name)),
    close: () => source.close(),
  };
}
