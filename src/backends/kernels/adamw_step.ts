// SPDX-License-Identifier: Apache-2.0
/** Kernels GlobalNorm and AdamwStep on the native devices (contract: native/include/adamw_step.h). */
import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { DeviceBackend } from '../device_backend.ts';
import type { Infos } from './define.ts';
import { defineKernel, required, sizeOf } from './define.ts';

/** The inputs named prefix0, prefix1, … */
function list(inputs: Infos, prefix: string, count: number): TensorInfo[] {
  return Array.from({ length: count }, (_, i) => required(inputs, `${prefix}${i}`));
}

function handles(backend: DeviceBackend, infos: TensorInfo[]): Uint32Array {
  return Uint32Array.from(infos, (info) => backend.handle(info));
}

function sizes(infos: TensorInfo[]): Uint32Array {
  return Uint32Array.from(infos, (info) => sizeOf(info.shape));
}

/** inputs: gradient0 …; attrs: count. Output: the scalar norm. */
defineKernel('GlobalNorm', (backend, inputs, attrs) => {
  const gradients = list(inputs, 'gradient', attrs.count as number);
  const norm = backend.output([]);
  backend.addon.globalNorm(backend.device, sizes(gradients), handles(backend, gradients), backend.handle(norm));
  return norm;
});

/** inputs: parameter0 …, gradient0 …, expAvg0 …, expAvgSq0 …, schedule?, norm?; updates parameters and moments in place. No output. */
defineKernel('AdamwStep', (backend, inputs, attrs) => {
  const count = attrs.count as number;
  const parameters = list(inputs, 'parameter', count);
  backend.addon.adamwStep(
    backend.device,
    sizes(parameters),
    ...[parameters, ...['gradient', 'expAvg', 'expAvgSq'].map((prefix) => list(inputs, prefix, count))].map((infos) =>
      handles(backend, infos),
    ),
    attrs.learningRates as Float32Array,
    attrs.weightDecays as Float32Array,
    attrs.beta1 as number,
    attrs.beta2 as number,
    attrs.eps as number,
    attrs.step as number,
    backend.handle(inputs.schedule),
    backend.handle(inputs.norm),
    attrs.maxGradNorm as number,
  );
  return [];
});
