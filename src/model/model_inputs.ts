// SPDX-License-Identifier: Apache-2.0
/** Checks and converts what a model is given: ids, masks, labels. */
import type { Tensor2D, Tensor3D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { UserError } from '../errors.ts';

/** Label of a position that no loss is taken at. */
const IGNORED_LABEL = -100;

export function toIds(rows: readonly (readonly number[])[] | Tensor2D, name: string, limit: number): Tensor2D {
  if (rows instanceof tf.Tensor) return rows;
  const seqlen = rows[0]?.length ?? 0;
  if (seqlen === 0)
    throw new UserError(`${name}: found no ${rows.length === 0 ? 'rows' : 'positions'}; expected at least one.`);
  const uneven = rows.findIndex((row) => row.length !== seqlen);
  if (uneven >= 0) {
    throw new UserError(
      `${name}: row ${uneven} has ${rows[uneven]?.length} positions, row 0 has ${seqlen}; pad the rows to one length.`,
    );
  }
  const flat = Int32Array.from(rows.flat());
  checkIds(flat, name, limit);
  return tf.tensor2d(flat, [rows.length, seqlen], 'int32');
}

/** [batch, seqlen] of what the model is given. */
export function inputShape(inputIds: Tensor2D | undefined, inputsEmbeds: Tensor3D | undefined): [number, number] {
  if (inputIds && inputsEmbeds) throw new UserError('forward: found inputIds and inputsEmbeds; expected one of them.');
  const given = inputIds ?? inputsEmbeds;
  if (!given) throw new UserError('forward: found neither inputIds nor inputsEmbeds; expected one of them.');
  return given.shape.slice(0, 2) as [number, number];
}

export function checkRows(rows: readonly (readonly number[])[], name: string, [batch, seqlen]: [number, number]): void {
  const wrong = rows.find((row) => row.length !== seqlen);
  if (rows.length === batch && !wrong) return;
  const found = [rows.length, (wrong ?? rows[0])?.length ?? 0];
  throw new UserError(`${name}: found [${found.join(', ')}], expected [${batch}, ${seqlen}] as the input has.`);
}

export function checkIds(ids: Int32Array, name: string, limit: number): void {
  const bad = ids.findIndex((id) => id < 0 || id >= limit);
  if (bad >= 0) throw new UserError(`${name}: ${ids[bad]} at position ${bad} lies outside 0..${limit - 1}.`);
}

export function checkLabels(labels: Int32Array, vocabSize: number): void {
  const bad = labels.findIndex((label) => label !== IGNORED_LABEL && (label < 0 || label >= vocabSize));
  if (bad < 0) return;
  throw new UserError(
    `labels: ${labels[bad]} at position ${bad} lies outside 0..${vocabSize - 1}; ${IGNORED_LABEL} is ignored.`,
  );
}

/** The label of position t is the token at t + 1; a row's last position has none. */
export function shiftLabels(labels: Int32Array, seqlen: number): Int32Array {
  return labels.map((_, i) => ((i + 1) % seqlen === 0 ? IGNORED_LABEL : (labels[i + 1] as number)));
}
