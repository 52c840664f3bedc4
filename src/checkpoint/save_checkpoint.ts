// SPDX-License-Identifier: Apache-2.0
/** Writes a model folder in the form transformers loads: config, generation config, one or more safetensors files. */
import { copyFileSync, existsSync, readdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { UserError } from '../errors.ts';
import { replaceFolderAtomic } from '../files.ts';
import type { MambaConfig } from '../model/config.ts';
import { type TensorToWrite, tensorBytes, type WritableDtype, writeSafetensors } from './safetensors_writer.ts';

export interface SaveCheckpointOptions {
  /** Stored type of every tensor; by default each tensor's own, or 'F32'. */
  dtype?: FloatDtype;
  /** Bytes of values a safetensors file may hold before the next shard begins, 5e9 (one tensor may exceed it). */
  maxShardSize?: number;
  /** Files to copy beside the weights (the tokenizer's). */
  extraFiles?: readonly string[];
  /** generation_config.json; by default the token ids of the config. */
  generationConfig?: Readonly<Record<string, unknown>>;
  /** Replace a folder that is not empty, false. */
  overwrite?: boolean;
}

/** A tensor to save: Hugging Face's name, float32 values that are asked for once, whole or in parts, when it is written. */
export interface CheckpointTensor {
  readonly name: string;
  readonly shape: readonly number[];
  /** Stored type where the options give none. */
  readonly dtype?: FloatDtype;
  readonly data: () => Float32Array | Iterable<Float32Array>;
}

/** Types that weights can be stored in. */
export const FLOAT_DTYPES = ['F32', 'BF16', 'F16'] as const satisfies readonly WritableDtype[];
export type FloatDtype = (typeof FLOAT_DTYPES)[number];

/** As config.json names them. */
export const DTYPE_NAMES = { F32: 'float32', BF16: 'bfloat16', F16: 'float16' } as const;
const FORMAT_METADATA = { format: 'pt' } as const;

const FLOAT_KEYS = [
  'layer_norm_epsilon',
  'initializer_range',
  'time_step_scale',
  'time_step_min',
  'time_step_max',
  'time_step_floor',
];

/**
 * Writes a whole model folder, or nothing.
 *
 * @param folder made when missing; must be empty or absent unless `overwrite`
 * @throws UserError when the folder is not empty or cannot be written
 */
export async function saveCheckpoint(
  folder: string,
  config: MambaConfig,
  tensors: Iterable<CheckpointTensor>,
  options: SaveCheckpointOptions = {},
): Promise<void> {
  const { maxShardSize = 5e9, extraFiles = [], overwrite = false } = options;
  if (!overwrite) refuseFilledFolder(folder);
  const typed = Array.from(tensors, (tensor) => ({ ...tensor, dtype: options.dtype ?? tensor.dtype ?? 'F32' }));
  const shards = divide(typed, maxShardSize);
  const dtype = commonDtype(typed);
  await replaceFolderAtomic(folder, (temporary) => {
    const { torch_dtype: _, ...configJson } = config.toJSON();
    // A switch of the initialisation alone. transformers (5.18) obeys it again when it loads, and divides the stored out_proj.
    configJson.rescale_prenorm_residual = false;
    writeFileSync(join(temporary, 'config.json'), configText({ ...configJson, dtype: DTYPE_NAMES[dtype] }));
    writeJson(join(temporary, 'generation_config.json'), options.generationConfig ?? defaultGenerationConfig(config));
    writeShards(temporary, shards);
    for (const path of extraFiles) copyFileSync(path, join(temporary, basename(path)));
  });
}

/** @throws UserError when the folder exists and holds something */
export function refuseFilledFolder(folder: string): void {
  if (existsSync(folder) && readdirSync(folder).length > 0) {
    throw new UserError(`${folder} is not empty; choose another folder, or say that it may be replaced.`);
  }
}

/** The dtype of most values: what config.json says of all. */
function commonDtype(tensors: readonly { shape: readonly number[]; dtype: FloatDtype }[]): FloatDtype {
  const counts: Record<FloatDtype, number> = { F32: 0, BF16: 0, F16: 0 };
  for (const { shape, dtype } of tensors) counts[dtype] += shape.reduce((product, size) => product * size, 1);
  return FLOAT_DTYPES.reduce((best, dtype) => (counts[dtype] > counts[best] ? dtype : best));
}

function defaultGenerationConfig(config: MambaConfig): Record<string, unknown> {
  return {
    _from_model_config: true,
    bos_token_id: config.bosTokenId,
    eos_token_id: config.eosTokenId,
    pad_token_id: config.padTokenId,
  };
}

/** Consecutive groups of tensors, each within `maxBytes` unless it is a single tensor. */
function divide(tensors: readonly TensorToWrite[], maxBytes: number): TensorToWrite[][] {
  const shards: TensorToWrite[][] = [[]];
  let bytes = 0;
  for (const tensor of tensors) {
    const size = tensorBytes(tensor);
    if (bytes + size > maxBytes && bytes > 0) {
      shards.push([]);
      bytes = 0;
    }
    shards.at(-1)?.push(tensor);
    bytes += size;
  }
  return shards;
}

function writeShards(folder: string, shards: readonly TensorToWrite[][]): void {
  const [only] = shards;
  if (only && shards.length === 1) {
    writeSafetensors(join(folder, 'model.safetensors'), only, FORMAT_METADATA);
    return;
  }
  const number = (index: number) => String(index).padStart(5, '0');
  const weightMap: [string, string][] = [];
  let totalSize = 0;
  for (const [index, shard] of shards.entries()) {
    const file = `model-${number(index + 1)}-of-${number(shards.length)}.safetensors`;
    totalSize += writeSafetensors(join(folder, file), shard, FORMAT_METADATA);
    for (const { name } of shard) weightMap.push([name, file]);
  }
  writeJson(join(folder, 'model.safetensors.index.json'), {
    metadata: { total_size: totalSize },
    weight_map: Object.fromEntries(weightMap.sort(([a], [b]) => (a < b ? -1 : 1))),
  });
}

/** JSON in which the keys that transformers declares as float hold one by its strict reading: 1.0, which JSON.stringify writes as 1. */
function configText(json: Record<string, unknown>): string {
  const whole = new RegExp(`^(  "(?:${FLOAT_KEYS.join('|')})": \\d+)(?=,?$)`, 'gm');
  return `${JSON.stringify(json, null, 2).replace(whole, '$1.0')}\n`;
}

function writeJson(path: string, value: unknown): void {
  writeFileSync(path, `${JSON.stringify(value, null, 2)}\n`);
}
