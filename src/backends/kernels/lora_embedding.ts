// SPDX-License-Identifier: Apache-2.0
/** Kernels LoraEmbedding and LoraEmbeddingGrad on the native devices (contract: native/include/lora_embedding.h). */
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { DEVICE_INDEX } from '../addon.ts';
import type { DeviceBackend } from '../device_backend.ts';
import type { Infos } from './define.ts';
import { defineKernel, required, sizeOf } from './define.ts';
import { checkIndices } from './shape.ts';

function operands(backend: DeviceBackend, inputs: Infos, attrs: Record<string, unknown>): number[] {
  const [vocabSize, dModel] = required(inputs, 'W').shape as [number, number];
  return [
    sizeOf(required(inputs, 'ids').shape),
    vocabSize,
    dModel,
    inputs.loraA?.shape[0] ?? 0,
    backend.handle(inputs.ids),
    backend.handle(inputs.W),
    backend.handle(inputs.loraA),
    backend.handle(inputs.loraB),
    attrs.scaling as number,
  ];
}

/** attrs: scaling. Output: out. */
defineKernel('LoraEmbedding', (backend, inputs, attrs) => {
  if (backend.device === DEVICE_INDEX.native)
    checkIndices(backend, required(inputs, 'ids'), required(inputs, 'W').shape[0] as number);
  const out = backend.output([...required(inputs, 'ids').shape, required(inputs, 'W').shape[1] as number]);
  backend.addon.loraEmbeddingFwd(backend.device, ...operands(backend, inputs, attrs), backend.handle(out));
  return out;
});

/** attrs: scaling, needs (a list out of loraA, loraB, W). Outputs: the needed ones in that order. */
defineKernel('LoraEmbeddingGrad', (backend, inputs, attrs) => {
  const needs = attrs.needs as string[];
  const gradients = ['loraA', 'loraB', 'W'].map((name) =>
    needs.includes(name) ? backend.output(required(inputs, name).shape) : undefined,
  );
  backend.addon.loraEmbeddingBwd(
    backend.device,
    ...operands(backend, inputs, attrs),
    backend.handle(required(inputs, 'dout')),
    ...gradients.map((info) => backend.handle(info)),
  );
  return gradients.filter((info): info is TensorInfo => info !== undefined);
});
