// SPDX-License-Identifier: Apache-2.0
/** Adapter folders in peft's format: adapter_config.json, adapter_model.safetensors, README.md. */
import { existsSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openSafetensors } from '../src/checkpoint/safetensors.ts';
import { writeSafetensors } from '../src/checkpoint/safetensors_writer.ts';
import type { TensorSource } from '../src/checkpoint/tensor_source.ts';
import { UserError } from '../src/errors.ts';
import { readJsonFile, replaceFolderAtomic } from '../src/files.ts';
import { LoraConfig } from './lora_config.ts';
import { savedParameters } from './saved_parameters.ts';
import { adapterShapes, type ModuleShape, targetedModules } from './targets.ts';
import { trainedTokens } from './trained_tokens.ts';

/** What an adapter is read for: a loaded model, or one whose tensors are still on the disk. */
export interface AdapterTarget {
  readonly modules: ReadonlyMap<string, ModuleShape>;
  readonly parameters: ReadonlyMap<string, { readonly shape: number[]; dataSync(): ArrayLike<number> }>;
  readonly source: { readonly name: string | null };
}

export const CONFIG_FILE = 'adapter_config.json';
export const WEIGHTS_FILE = 'adapter_model.safetensors';
/** Key of the weights' metadata: the base model's fingerprint. */
export const FINGERPRINT = 'base_model_fingerprint';

/** A tensor of an adapter, in float32. */
export interface AdapterTensor {
  readonly shape: number[];
  dataSync(): ArrayLike<number>;
}

/**
 * Reads an adapter for a model.
 * @throws UserError when files are missing or damaged, a tensor holds NaN, or tensors do not fit the model (all listed)
 */
export function readAdapter(
  folder: string,
  model: AdapterTarget,
): { config: LoraConfig; tensors: Map<string, Float32Array<ArrayBuffer>>; fingerprint: string | null } {
  const config = readAdapterConfig(folder);
  const source = openSafetensors(join(folder, WEIGHTS_FILE));
  try {
    const expected = new Map(targetedModules(model, config).flatMap((module) => adapterShapes(module, config)));
    for (const { key, shape } of savedParameters(model, config)) expected.set(key, shape);
    const tokens = trainedTokens(model, config);
    if (tokens) expected.set(tokens.key, tokens.shape);
    checkFit(folder, source, expected, model);
    const tensors = new Map<string, Float32Array<ArrayBuffer>>();
    for (const key of expected.keys()) {
      const data = source.readFloat32(key);
      const bad = data.findIndex((value) => !Number.isFinite(value));
      if (bad >= 0)
        throw new UserError(
          `${source.path}: tensor ${key} holds ${data[bad]} at element ${bad}; the adapter is damaged.`,
        );
      tensors.set(key, data);
    }
    return { config, tensors, fingerprint: source.metadata[FINGERPRINT] ?? null };
  } finally {
    source.close();
  }
}

/**
 * Reads an adapter's configuration.
 * @throws UserError when the folder is no adapter: it says what is there
 */
export function readAdapterConfig(folder: string): LoraConfig {
  if (!existsSync(folder) || !statSync(folder).isDirectory()) {
    throw new UserError(
      `${folder}: no such folder; expected an adapter folder with ${CONFIG_FILE} and ${WEIGHTS_FILE}.`,
    );
  }
  const missing = [CONFIG_FILE, WEIGHTS_FILE].filter((name) => !existsSync(join(folder, name)));
  if (missing.length > 0) {
    const present = readdirSync(folder).sort().join(', ') || 'nothing';
    throw new UserError(
      `${folder}: ${missing.join(' and ')} missing; an adapter folder holds both. It contains ${present}.`,
    );
  }
  const path = join(folder, CONFIG_FILE);
  return LoraConfig.fromJSON(readJsonFile(path), path);
}

function checkFit(folder: string, source: TensorSource, expected: Map<string, number[]>, model: AdapterTarget): void {
  const faults: string[] = [];
  for (const [key, shape] of expected) {
    const entry = source.entries.get(key);
    if (!entry) faults.push(`${key}: missing, expected [${shape.join(', ')}]`);
    else if (entry.shape.join() !== shape.join())
      faults.push(`${key}: has [${entry.shape.join(', ')}], the model needs [${shape.join(', ')}]`);
  }
  for (const key of source.entries.keys()) {
    if (!expected.has(key) && !isBaseCopy(key, source, model)) faults.push(`${key}: the model has no place for it`);
  }
  if (faults.length === 0) return;
  const name = model.source.name ?? 'this model';
  throw new UserError(
    `the adapter ${folder} does not fit ${name} (${faults.length} mismatches); it was made for another model:\n  ${faults.join('\n  ')}`,
  );
}

/** peft writes the embedding matrix beside the adapter in some cases; an unchanged copy adds nothing. */
function isBaseCopy(key: string, source: TensorSource, model: AdapterTarget): boolean {
  const name = key.replace(/^base_model\.model\./, '').replace('.base_layer.', '.');
  const parameter = model.parameters.get(name);
  if (!parameter || parameter.shape.join() !== source.entries.get(key)?.shape.join()) return false;
  const stored = source.readFloat32(key);
  const own = parameter.dataSync();
  return stored.every((value, i) => value === own[i]);
}

/**
 * Writes a whole adapter folder, or nothing.
 * @param fingerprint of the base model, kept in the weights' metadata
 */
export async function writeAdapter(
  folder: string,
  config: LoraConfig,
  tensors: ReadonlyMap<string, AdapterTensor>,
  fingerprint: string | null,
): Promise<void> {
  await replaceFolderAtomic(folder, (temporary) => {
    writeFileSync(join(temporary, CONFIG_FILE), `${JSON.stringify(config.toJSON(), null, 2)}\n`);
    writeSafetensors(
      join(temporary, WEIGHTS_FILE),
      Array.from(tensors, ([name, variable]) => ({
        name,
        shape: variable.shape,
        dtype: 'F32' as const,
        data: () => variable.dataSync() as Float32Array,
      })),
      { format: 'pt', ...(fingerprint !== null && { [FINGERPRINT]: fingerprint }) },
    );
    writeFileSync(join(temporary, 'README.md'), modelCard(config));
  });
}

function modelCard(config: LoraConfig): string {
  const base = config.baseModelNameOrPath ?? 'unknown';
  const targets = typeof config.targetModules === 'string' ? config.targetModules : config.targetModules.join(', ');
  return [
    '---',
    `base_model: ${base}`,
    'library_name: peft',
    'tags: [lora, mamba, mambatune]',
    '---',
    '',
    `LoRA adapter for ${base}: r ${config.r}, alpha ${config.loraAlpha}${config.useRslora ? ' (rslora)' : ''}, on ${targets}. Trained with mambatune.`,
    '',
  ].join('\n');
}
