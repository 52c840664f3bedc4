// SPDX-License-Identifier: Apache-2.0
/** Copies of adapter folders that a test may change. */
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openSafetensors } from '../../src/checkpoint/safetensors.ts';
import { writeSafetensors } from '../../src/checkpoint/safetensors_writer.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

export type EditableTensors = Map<string, { shape: readonly number[]; data: Float32Array }>;

/** A copy with its config and its tensors changed. Call inside a test. */
export function changedAdapter(
  folder: string,
  change: { config?: Record<string, unknown>; tensors?: (tensors: EditableTensors) => void },
): string {
  const copy = join(temporaryFolder(), 'adapter');
  cpSync(folder, copy, { recursive: true });
  const configPath = join(copy, 'adapter_config.json');
  const config = JSON.parse(readFileSync(configPath, 'utf8')) as Record<string, unknown>;
  writeFileSync(configPath, JSON.stringify({ ...config, ...change.config }));
  const path = join(copy, 'adapter_model.safetensors');
  const source = openSafetensors(path);
  const tensors: EditableTensors = new Map(
    [...source.entries.values()].map(({ name, shape }) => [name, { shape, data: source.readFloat32(name) }]),
  );
  const { metadata } = source;
  source.close();
  change.tensors?.(tensors);
  const written = [...tensors].map(([name, { shape, data }]) => ({
    name,
    shape,
    dtype: 'F32' as const,
    data: () => data,
  }));
  writeSafetensors(path, written, metadata);
  return copy;
}
