// SPDX-License-Identifier: Apache-2.0
/** Shape checks that say what was expected. */
import type { Tensor } from '@tensorflow/tfjs-core';

/**
 * Checks a tensor's shape against the expected one.
 * @throws naming the op, the operand, and both shapes
 */
export function checkShape(
  op: string,
  name: string,
  tensor: Tensor | null | undefined,
  expected: readonly number[],
): void {
  if (!tensor) return;
  if (tensor.shape.length === expected.length && tensor.shape.every((size, i) => size === expected[i])) return;
  throw new Error(`${op}: ${name} must have shape [${expected.join(', ')}], got [${tensor.shape.join(', ')}]`);
}

/**
 * Checks a tensor's dtype.
 * @throws naming the op, the operand, and both dtypes
 */
export function checkDtype(
  op: string,
  name: string,
  tensor: Tensor | null | undefined,
  expected: 'float32' | 'int32',
): void {
  if (tensor && tensor.dtype !== expected) throw new Error(`${op}: ${name} must be ${expected}, got ${tensor.dtype}`);
}

/**
 * Checks that every id lies in [0, vocabSize), reading them back: for composite ops, whose kernels would say less or nothing.
 * @throws naming the first id that does not, and its position
 */
export function checkIds(ids: Tensor, vocabSize: number): void {
  const values = ids.dataSync();
  const bad = values.findIndex((value) => value < 0 || value >= vocabSize);
  if (bad >= 0) throw new Error(`index ${values[bad]} at position ${bad} lies outside [0, ${vocabSize})`);
}
