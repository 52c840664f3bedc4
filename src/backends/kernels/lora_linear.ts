// SPDX-License-Identifier: Apache-2.0
/** Kernels LoraLinear and LoraLinearGrad on the native devices (contract: native/include/lora_linear.h). */
import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { DeviceBackend } from '../device_backend.ts';
import type { Infos } from './define.ts';
import { defineKernel, required, rowCount } from './define.ts';

function operands(
  backend: DeviceBackend,
  inputs: Infos,
  attrs: Record<string, unknown>,
  rows: number,
): (number | boolean)[] {
  const [out, inFeatures] = required(inputs, 'W').shape as [number, number];
  return [
    rows,
    out,
    inFeatures,
    inputs.loraA?.shape[0] ?? 0,
    ...backend.rows(inputs.x),
    backend.handle(inputs.W),
    attrs.frozen as boolean,
    backend.handle(inputs.bias),
    backend.handle(inputs.loraA),
    backend.handle(inputs.loraB),
    attrs.scaling as number,
    attrs.dropout as number,
    attrs.seed as number,
    attrs.offset as number,
    backend.handle(inputs.dropoutStep),
  ];
}

/** inputs: x, W, bias?, loraA?, loraB?, dropoutStep?; attrs: scaling, dropout, seed, offset, frozen (W may be packed). Outputs: y, then dropout(x) loraA^T when there is an adapter. */
defineKernel('LoraLinear', (backend, inputs, attrs) => {
  const x = required(inputs, 'x');
  const rows = rowCount(x);
  const [out] = required(inputs, 'W').shape as [number, number];
  const y = backend.output([...x.shape.slice(0, -1), out]);
  const xa = inputs.loraA ? backend.output([rows, inputs.loraA.shape[0] as number]) : undefined;
  backend.addon.loraLinearFwd(
    backend.device,
    ...operands(backend, inputs, attrs, rows),
    ...backend.rows(y),
    ...backend.rows(xa),
  );
  return xa ? [y, xa] : [y];
});

/** inputs as the forward's with dy and xa; attrs also needs (a list out of x, loraA, loraB, W, bias). Outputs: the needed ones in that order. */
defineKernel('LoraLinearGrad', (backend, inputs, attrs) => {
  const needs = attrs.needs as string[];
  const dy = required(inputs, 'dy');
  const [out, inFeatures] = required(inputs, 'W').shape as [number, number];
  const r = inputs.loraA?.shape[0] ?? 0;
  const shapes: Record<string, number[]> = {
    x: [...dy.shape.slice(0, -1), inFeatures],
    loraA: [r, inFeatures],
    loraB: [out, r],
    W: [out, inFeatures],
    bias: [out],
  };
  const gradients = Object.entries(shapes).map(([name, shape]) =>
    needs.includes(name) ? backend.output(shape) : undefined,
  );
  backend.addon.loraLinearBwd(
    backend.device,
    ...operands(backend, inputs, attrs, rowCount(dy)),
    ...backend.rows(inputs.xa),
    backend.handle(dy),
    0,
    ...backend.rows(gradients[0]),
    false,
    0,
    0,
    ...gradients.slice(1).map((info) => backend.handle(info)),
  );
  return gradients.filter((info): info is TensorInfo => info !== undefined);
});
