// SPDX-License-Identifier: Apache-2.0
/** An adapter folder read without its base model: what each module's tensors are, by their names alone. */
import { join } from 'node:path';
import { openSafetensors } from '../src/checkpoint/safetensors.ts';
import { UserError } from '../src/errors.ts';
import type { LoraConfig } from './lora_config.ts';
import { FINGERPRINT, readAdapterConfig, WEIGHTS_FILE } from './peft_files.ts';

/** A row-major float32 matrix. */
export interface Matrix {
  shape: [rows: number, columns: number];
  data: Float32Array;
}

/** A module's adapter: its update is scaling B A, [out, in]; of an embedding [d_model, vocab_size]. */
export interface ModuleAdapter {
  readonly kind: 'linear' | 'embedding';
  /** As in checkpoints: backbone.layers.0.mixer.in_proj */
  readonly name: string;
  readonly rank: number;
  readonly scaling: number;
  /** [rank, in] */
  readonly A: Matrix;
  /** [out, rank] */
  readonly B: Matrix;
}

export interface AdapterFolder {
  readonly folder: string;
  readonly config: LoraConfig;
  /** Of the base model that it was made for, where it says. */
  readonly fingerprint: string | null;
  readonly modules: ReadonlyMap<string, ModuleAdapter>;
  /** What is no lora_A or lora_B: DoRA magnitudes, biases, saved modules. */
  readonly others: ReadonlyMap<string, Float32Array>;
}

const KEY = /^base_model\.model\.(.+)\.lora_(?:(embedding_)?([AB])|([AB])\.weight)$/;

/** @throws UserError when files are missing or damaged, or a module has one matrix without the other, or two that do not fit */
export function readAdapterFolder(folder: string): AdapterFolder {
  const config = readAdapterConfig(folder);
  const source = openSafetensors(join(folder, WEIGHTS_FILE));
  try {
    const matrices = new Map<string, { kind: 'linear' | 'embedding'; A?: Matrix; B?: Matrix }>();
    const others = new Map<string, Float32Array>();
    for (const [key, { shape }] of source.entries) {
      const [, name, embedding, ofEmbedding, ofLinear] = KEY.exec(key) ?? [];
      const data = source.readFloat32(key);
      const which = (ofEmbedding ?? ofLinear) as 'A' | 'B' | undefined;
      if (name === undefined || which === undefined || shape.length !== 2) {
        others.set(key, data);
        continue;
      }
      const module = matrices.get(name) ?? { kind: embedding ? 'embedding' : 'linear' };
      module[which] = { shape: shape as [number, number], data };
      matrices.set(name, module);
    }
    const modules = new Map(
      Array.from(matrices, ([name, { kind, A, B }]) => [name, moduleAdapter(source.path, config, name, kind, A, B)]),
    );
    if (modules.size === 0)
      throw new UserError(`${source.path}: it holds no lora_A and lora_B; this is no LoRA adapter.`);
    return { folder, config, fingerprint: source.metadata[FINGERPRINT] ?? null, modules, others };
  } finally {
    source.close();
  }
}

/**
 * @param purpose what cannot be done with more than updates of the base's own weights, for the message
 * @throws UserError when the adapter belongs to weights that its first values changed, or holds more than lora_A and lora_B
 */
export function refuseMoreThanUpdates({ folder, config, others }: AdapterFolder, purpose: string): void {
  const { initLoraWeights: init } = config;
  if (init === 'pissa' || init === 'olora') {
    throw new UserError(
      `${folder}: its init_lora_weights is ${init}, so it belongs to a base that is without its first values, and ${purpose}; merge it instead.`,
    );
  }
  if (others.size === 0) return;
  const [first] = others.keys();
  throw new UserError(
    `${folder}: it holds ${others.size} tensors besides lora_A and lora_B (such as ${first}), and ${purpose}.`,
  );
}

/** @throws UserError when a tensor holds NaN or infinity */
export function refuseNonFinite({ folder, modules }: AdapterFolder): void {
  for (const { name, A, B } of modules.values()) {
    for (const [part, { data }] of Object.entries({ A, B })) {
      const bad = data.findIndex((value) => !Number.isFinite(value));
      if (bad < 0) continue;
      throw new UserError(
        `${folder}: lora_${part} of ${name} holds ${data[bad]} at element ${bad}; the adapter is damaged.`,
      );
    }
  }
}

function moduleAdapter(
  path: string,
  config: LoraConfig,
  name: string,
  kind: ModuleAdapter['kind'],
  A: Matrix | undefined,
  B: Matrix | undefined,
): ModuleAdapter {
  if (!A || !B) throw new UserError(`${path}: ${name} has lora_${A ? 'A' : 'B'} without lora_${A ? 'B' : 'A'}.`);
  const [rank] = A.shape;
  if (rank !== B.shape[1]) {
    throw new UserError(`${path}: ${name} has lora_A [${A.shape}] and lora_B [${B.shape}], whose ranks differ.`);
  }
  if (rank !== config.rankOf(name)) {
    throw new UserError(`${path}: ${name} has rank ${rank}, and adapter_config.json says ${config.rankOf(name)}.`);
  }
  return { kind, name, rank, scaling: config.scalingOf(name), A, B };
}
