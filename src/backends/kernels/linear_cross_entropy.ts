// SPDX-License-Identifier: Apache-2.0
/** Kernel LinearCrossEntropy on the native devices (contract: native/include/linear_cross_entropy.h). */
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { DEVICE_INDEX } from '../addon.ts';
import type { DeviceBackend } from '../device_backend.ts';
import { defineKernel, lastDim, required, rowCount } from './define.ts';

/** inputs: hidden, W, labels; attrs: frozen, labelSmoothing, zLoss, needs (a list out of hidden, W). Outputs: lossSum, count, then the needed gradients. */
defineKernel('LinearCrossEntropy', (backend, inputs, attrs) => {
  const needs = attrs.needs as string[];
  const hidden = required(inputs, 'hidden');
  const W = required(inputs, 'W');
  if (backend.device === DEVICE_INDEX.native) checkLabels(backend, required(inputs, 'labels'), W.shape[0] as number);
  const lossSum = backend.output([]);
  const count = backend.output([]);
  const dhidden = needs.includes('hidden') ? backend.output(hidden.shape) : undefined;
  const dW = needs.includes('W') ? backend.output(W.shape) : undefined;
  backend.addon.linearCrossEntropy(
    backend.device,
    rowCount(hidden),
    lastDim(hidden),
    W.shape[0] as number,
    backend.handle(hidden),
    backend.handle(W),
    attrs.frozen as boolean,
    backend.handle(required(inputs, 'labels')),
    attrs.labelSmoothing as number,
    attrs.zLoss as number,
    ...[lossSum, count, dhidden, dW].map((info) => backend.handle(info)),
  );
  return [lossSum, count, dhidden, dW].filter((info): info is TensorInfo => info !== undefined);
});

function checkLabels(backend: DeviceBackend, labels: TensorInfo, vocabSize: number): void {
  const values = backend.readSync(labels.dataId);
  const bad = values.findIndex((value) => value >= vocabSize);
  if (bad >= 0)
    throw new Error(`label ${values[bad]} at position ${bad} is not below the vocabulary size ${vocabSize}`);
}
