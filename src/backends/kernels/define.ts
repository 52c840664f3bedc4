// SPDX-License-Identifier: Apache-2.0
/** Registration of the kernels that both native devices share: one function per kernel over a {@link DeviceBackend}. */
import type { KernelBackend, NamedAttrMap, NamedTensorInfoMap, TensorInfo } from '@tensorflow/tfjs-core';
import { getKernel, registerKernel } from '@tensorflow/tfjs-core';
import type { DeviceBackend } from '../device_backend.ts';

export type Infos = Record<string, TensorInfo | undefined>;
export type KernelFunction = (
  backend: DeviceBackend,
  inputs: Infos,
  attrs: Record<string, unknown>,
) => TensorInfo | TensorInfo[];

const deviceKernels = new Map<string, KernelFunction>();

/** Adds a kernel to those that {@link registerDeviceKernels} registers. */
export function defineKernel(kernelName: string, kernel: KernelFunction): void {
  deviceKernels.set(kernelName, kernel);
}

/** Registers every defined kernel for a backend, once. */
export function registerDeviceKernels(backendName: string): void {
  for (const [kernelName, kernel] of deviceKernels) {
    if (getKernel(kernelName, backendName)) continue;
    registerKernel({
      kernelName,
      backendName,
      kernelFunc: ({
        inputs,
        attrs,
        backend,
      }: {
        inputs: NamedTensorInfoMap;
        attrs?: NamedAttrMap;
        backend: KernelBackend | object;
      }) => kernel(backend as DeviceBackend, inputs, (attrs ?? {}) as Record<string, unknown>),
    });
  }
}

/** An input that the kernel cannot do without. */
export function required(inputs: Infos, name: string): TensorInfo {
  const info = inputs[name];
  if (!info) throw new Error(`kernel called without its input '${name}'`);
  return info;
}

export function lastDim(info: TensorInfo): number {
  return info.shape[info.shape.length - 1] ?? 1;
}

export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** Number of rows of the last axis. */
export function rowCount(info: TensorInfo): number {
  return sizeOf(info.shape.slice(0, -1));
}
