// SPDX-License-Identifier: Apache-2.0
/** Tells one model's weights from another's without reading them all. */
import { createHash } from 'node:crypto';
import type { TensorSource } from './tensor_source.ts';

/**
 * SHA-256 over name, shape and the first, middle and last row of each tensor, as float32. The same for the same weights however they are
 * stored (one file, shards, torch or safetensors, any type that holds the values exactly); another one after any training that
 * touches one of these rows.
 *
 * @param shapes the model's tensors
 */
export function fingerprint(shapes: ReadonlyMap<string, readonly number[]>, source: TensorSource): string {
  const hash = createHash('sha256');
  for (const name of [...shapes.keys()].sort()) {
    const shape = shapes.get(name) as readonly number[];
    hash.update(`${name} [${shape}]\n`);
    for (const start of sampledRows(shape[0] ?? 0)) hash.update(source.readFloat32(name, { start, count: 1 }));
  }
  return hash.digest('hex');
}

function sampledRows(count: number): Set<number> {
  return new Set(count === 0 ? [] : [0, count >> 1, count - 1]);
}
