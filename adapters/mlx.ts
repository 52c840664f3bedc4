// SPDX-License-Identifier: Apache-2.0
/** Conversion between peft's adapter folders and those of mlx-lm (mlx_lm/tuner/{lora,utils}.py). */
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openSafetensors } from '../src/checkpoint/safetensors.ts';
import { writeSafetensors } from '../src/checkpoint/safetensors_writer.ts';
import { refuseFilledFolder } from '../src/checkpoint/save_checkpoint.ts';
import { ConfigError, UserError } from '../src/errors.ts';
import { readJsonFile, replaceFolderAtomic } from '../src/files.ts';
import { isJsonObject } from '../src/json.ts';
import {
  type AdapterFolder,
  type Matrix,
  type ModuleAdapter,
  readAdapterFolder,
  refuseMoreThanUpdates,
  refuseNonFinite,
} from './adapter_folder.ts';
import type { EmbeddingPolicy } from './head_policy.ts';
import { LoraConfig } from './lora_config.ts';
import { type AdapterTensor, CONFIG_FILE, writeAdapter } from './peft_files.ts';

const MLX_WEIGHTS = 'adapters.safetensors';
const EMBEDDINGS = 'backbone.embeddings';
/** mlx-lm's own default of lora_parameters.scale. */
const DEFAULT_SCALE = 20;

export interface ConvertOptions {
  /** Default `refuse`. */
  embeddings?: EmbeddingPolicy;
}

export interface ConvertResult {
  from: 'peft' | 'mlx';
  to: 'peft' | 'mlx';
  r: number;
  /** The factor of every update in the result. */
  scale: number;
  modules: string[];
  /** Left out by the policy. */
  dropped: string[];
}

/** Which program's adapter a folder holds. @throws UserError when it is neither's */
export function adapterFormat(folder: string): 'peft' | 'mlx' {
  if (existsSync(join(folder, MLX_WEIGHTS))) return 'mlx';
  if (existsSync(join(folder, 'adapter_model.safetensors'))) return 'peft';
  throw new UserError(
    `${folder}: found neither adapter_model.safetensors (peft) nor ${MLX_WEIGHTS} (mlx-lm); expected an adapter folder.`,
  );
}

/**
 * Converts an adapter of peft to mlx-lm, or the other way round.
 *
 * @param output must be empty or absent
 * @throws UserError when the adapter is damaged or holds what the other program has no place for, or the output cannot be written
 * @throws ConfigError when it adapts the embeddings and the policy is `refuse`
 */
export async function convertAdapter(
  folder: string,
  output: string,
  { embeddings = 'refuse' }: ConvertOptions = {},
): Promise<ConvertResult> {
  refuseFilledFolder(output);
  const from = adapterFormat(folder);
  const adapter = from === 'peft' ? readAdapterFolder(folder) : readMlx(folder);
  refuseMoreThanUpdates(adapter, `${from === 'peft' ? 'mlx-lm' : 'peft'} has no place for that`);
  refuseNonFinite(adapter);
  const { modules, dropped } = applyPolicy(adapter, embeddings);
  const write = from === 'peft' ? writeMlx : writePeft;
  const { r, scale } = await write(output, adapter, modules);
  const to = from === 'peft' ? 'mlx' : 'peft';
  return { from, to, r, scale, modules: modules.map(({ name }) => name), dropped };
}

function applyPolicy(adapter: AdapterFolder, policy: EmbeddingPolicy): { modules: ModuleAdapter[]; dropped: string[] } {
  const all = [...adapter.modules.values()];
  if (!adapter.modules.has(EMBEDDINGS) || policy === 'convert') return { modules: all, dropped: [] };
  if (policy === 'refuse') {
    throw new ConfigError(
      `${adapter.folder}: it adapts the embeddings. mlx-lm applies that to a tied head as well, peft to the lookup alone, so the result would be another model. Choose convert (where the head is not tied, or to accept that) or drop (leave the embeddings out).`,
    );
  }
  const modules = all.filter(({ name }) => name !== EMBEDDINGS);
  if (modules.length === 0)
    throw new UserError(`${adapter.folder}: it adapts the embeddings only; nothing is left without.`);
  return { modules, dropped: [EMBEDDINGS] };
}

/** One rank and one scale for all modules, as mlx-lm has them: lower ranks are filled with zeros, other scalings go into lora_b. */
async function writeMlx(
  output: string,
  { folder, config }: AdapterFolder,
  modules: readonly ModuleAdapter[],
): Promise<{ r: number; scale: number }> {
  const conv = modules.find(({ name }) => name.endsWith('.conv1d'));
  if (conv) throw new UserError(`${folder}: it adapts ${conv.name}, and mlx-lm has no adapters of convolutions.`);
  const r = Math.max(...modules.map(({ rank }) => rank));
  const scalings = new Set(modules.map(({ scaling }) => scaling));
  const scale = scalings.size === 1 ? (modules[0]?.scaling as number) : 1;
  const tensors = modules.flatMap(({ name, A, B, scaling }) => [
    { name: `${name}.lora_a`, ...transposed(A, [A.shape[1], r], 1) },
    { name: `${name}.lora_b`, ...transposed(B, [r, B.shape[0]], scaling / scale) },
  ]);
  const layers = new Set(modules.flatMap(({ name }) => /\.layers\.(\d+)\./.exec(name)?.[1] ?? []));
  // Full names match in mlx-lm whatever num_layers says, so any choice of modules can be expressed.
  const parameters = { rank: r, scale, dropout: config.loraDropout, keys: modules.map(({ name }) => name) };
  const json = {
    ...(config.baseModelNameOrPath !== null && { model: config.baseModelNameOrPath }),
    fine_tune_type: 'lora',
    num_layers: layers.size,
    lora_parameters: parameters,
  };
  await replaceFolderAtomic(output, (temporary) => {
    writeFileSync(join(temporary, CONFIG_FILE), `${JSON.stringify(json, null, 4)}\n`);
    writeSafetensors(
      join(temporary, MLX_WEIGHTS),
      tensors.map(({ name, shape, data }) => ({ name, shape, dtype: 'F32', data: () => data })),
    );
  });
  return { r, scale };
}

async function writePeft(
  output: string,
  { config, fingerprint }: AdapterFolder,
  modules: readonly ModuleAdapter[],
): Promise<{ r: number; scale: number }> {
  const tensors = new Map<string, AdapterTensor>();
  for (const { kind, name, A, B } of modules) {
    const [keyA, keyB] =
      kind === 'embedding' ? ['lora_embedding_A', 'lora_embedding_B'] : ['lora_A.weight', 'lora_B.weight'];
    tensors.set(`base_model.model.${name}.${keyA}`, { shape: A.shape, dataSync: () => A.data });
    tensors.set(`base_model.model.${name}.${keyB}`, { shape: B.shape, dataSync: () => B.data });
  }
  const written = config.with({ targetModules: modules.map(({ name }) => name) });
  await writeAdapter(output, written, tensors, fingerprint);
  return { r: config.r, scale: config.scalingOf(modules[0]?.name ?? '') };
}

/** @throws UserError when files are missing or damaged, or the adapter is none of LoRA */
function readMlx(folder: string): AdapterFolder {
  const path = join(folder, CONFIG_FILE);
  const json = readJsonFile(path);
  const { rank, scale, dropout } = mlxParameters(json, path);
  const source = openSafetensors(join(folder, MLX_WEIGHTS));
  try {
    const others = new Map<string, Float32Array>();
    const halves = new Map<string, { a?: Matrix; b?: Matrix }>();
    for (const [key, { shape }] of source.entries) {
      const [, name, half] = /^(.+)\.lora_([ab])$/.exec(key) ?? [];
      const data = source.readFloat32(key);
      if (name === undefined || shape.length !== 2) others.set(key, data);
      else halves.set(name, { ...halves.get(name), [half as 'a' | 'b']: { shape: shape as [number, number], data } });
    }
    const modules = Array.from(halves, ([name, { a, b }]): [string, ModuleAdapter] => {
      if (!a || !b)
        throw new UserError(`${source.path}: ${name} has lora_${a ? 'a' : 'b'} without lora_${a ? 'b' : 'a'}.`);
      if (a.shape[1] !== rank || b.shape[0] !== rank) {
        throw new UserError(
          `${source.path}: ${name} has lora_a [${a.shape}] and lora_b [${b.shape}], and ${path} says rank ${rank}.`,
        );
      }
      const [A, B] = [
        { shape: [rank, a.shape[0]] as [number, number], data: transposed(a, [rank, a.shape[0]], 1).data },
        { shape: [b.shape[1], rank] as [number, number], data: transposed(b, [b.shape[1], rank], 1).data },
      ];
      return [name, { kind: name === EMBEDDINGS ? 'embedding' : 'linear', name, rank, scaling: scale, A, B }];
    });
    if (modules.length === 0) throw new UserError(`${source.path}: it holds no lora_a and lora_b.`);
    const config = new LoraConfig({
      r: rank,
      loraAlpha: scale * rank,
      loraDropout: dropout,
      targetModules: modules.map(([name]) => name),
      baseModelNameOrPath: typeof json.model === 'string' ? json.model : null,
    });
    return { folder, config, fingerprint: null, modules: new Map(modules), others };
  } finally {
    source.close();
  }
}

function mlxParameters(json: Record<string, unknown>, path: string): { rank: number; scale: number; dropout: number } {
  const type = json.fine_tune_type ?? 'lora';
  if (type !== 'lora') throw new UserError(`${path}: fine_tune_type is ${JSON.stringify(type)}; only "lora" converts.`);
  const parameters = json.lora_parameters;
  if (!isJsonObject(parameters)) throw new UserError(`${path}: expected an object "lora_parameters".`);
  const { rank, scale = DEFAULT_SCALE, dropout = 0 } = parameters;
  const isValid =
    Number.isSafeInteger(rank) &&
    (rank as number) >= 1 &&
    isFiniteNumber(scale) &&
    scale > 0 &&
    isFiniteNumber(dropout);
  if (!isValid) {
    throw new UserError(
      `${path}: lora_parameters has rank ${JSON.stringify(rank)}, scale ${JSON.stringify(scale)}, dropout ${JSON.stringify(dropout)}; expected a whole number from 1, a number above 0, and a number.`,
    );
  }
  return { rank: rank as number, scale, dropout };
}

function isFiniteNumber(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value);
}

/** factor * matrixᵀ, in a larger matrix of zeros where `shape` is larger. */
function transposed({ shape: [rows, columns], data }: Matrix, shape: [number, number], factor: number) {
  const out = new Float32Array(shape[0] * shape[1]);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) out[j * shape[1] + i] = factor * (data[i * columns + j] as number);
  }
  return { shape, data: out };
}
