// SPDX-License-Identifier: Apache-2.0
/** Finds where a loss or gradient stopped being finite: the tensor, or the first layer whose output is not. */
import type { Tensor, Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { LossBatch } from '../src/model/causal_lm.ts';
import type { TrainableModel } from './model.ts';

/**
 * One sentence on where the first NaN or infinity is, for a step that ended in one.
 *
 * @param batches the batches of the step
 * @param gradients the step's gradients by parameter name
 */
export function locateNonFinite(
  model: TrainableModel,
  batches: readonly LossBatch[],
  gradients: ReadonlyMap<string, Tensor>,
): string {
  const weight = findWeight(new Map([...model.parameters, ...model.trainableParameters()]));
  if (weight) return weight;
  for (const batch of batches) {
    const layer = findLayer(model, batch);
    if (layer) return layer;
  }
  // The backward walks from the last tensor to the first: the last one in the model's order went wrong first.
  const bad = [...gradients].filter(([, gradient]) => firstNonFinite(gradient) !== undefined).at(-1);
  return bad
    ? `The forward pass is finite; the gradient of ${bad[0]} is the first that is not.`
    : 'Every layer output and every single gradient is finite; only their sum is not.';
}

function findWeight(parameters: ReadonlyMap<string, Variable>): string | undefined {
  for (const [name, parameter] of parameters) {
    const bad = firstNonFinite(parameter);
    if (bad) return `The weight ${name} holds ${bad.value} at element ${bad.index}.`;
  }
  return undefined;
}

function findLayer(model: TrainableModel, batch: LossBatch): string | undefined {
  const rowsOf = (values: Int32Array) =>
    Array.from({ length: batch.batch }, (_, row) =>
      Array.from(values.subarray(row * batch.seqlen, (row + 1) * batch.seqlen)),
    );
  const { logits, hiddenStates = [] } = model.forward({
    inputIds: rowsOf(batch.inputIds),
    ...(batch.seqIdx && { seqIdx: rowsOf(batch.seqIdx) }),
    outputHiddenStates: true,
  });
  try {
    const layer = hiddenStates.findIndex((states) => firstNonFinite(states) !== undefined);
    if (layer >= 0) {
      const name = layer === hiddenStates.length - 1 ? 'backbone.norm_f' : `backbone.layers.${layer}`;
      return `The first output that is not finite is that of ${name}.`;
    }
    return firstNonFinite(logits) ? 'Every layer output is finite; the logits of the head are not.' : undefined;
  } finally {
    tf.dispose([logits, ...hiddenStates]);
  }
}

function firstNonFinite(tensor: Tensor): { index: number; value: number } | undefined {
  const values = tensor.dataSync<'float32'>();
  const index = values.findIndex((value) => !Number.isFinite(value));
  return index < 0 ? undefined : { index, value: values[index] as number };
}
