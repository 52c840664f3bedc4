// SPDX-License-Identifier: Apache-2.0
/** Time of each kernel of the addon, by waiting for the device before and after every call. */
import type { DeviceBackend } from '../../src/backends/device_backend.ts';

export interface KernelTime {
  /** The addon's function, with its sizes in their order (native/binding/model_ops.cc). */
  name: string;
  calls: number;
  seconds: number;
}

type Call = (device: number, ...args: unknown[]) => void;

/** Functions of the addon that run a kernel, with how many sizes their arguments begin with. */
const KERNELS: Record<string, number> = {
  ...{ selectiveScanFwd: 4, selectiveScanBwd: 4, causalConv1dFwd: 4, causalConv1dBwd: 4, rmsNormFwd: 2, rmsNormBwd: 2 },
  ...{ loraLinearFwd: 4, loraLinearBwd: 4, loraEmbeddingFwd: 4, loraEmbeddingBwd: 4, linearCrossEntropy: 3 },
  ...{ globalNorm: 0, adamwStep: 0, unary: 0, binary: 0, select: 0, reduce: 0, cumsum: 0, matmul: 4, stridedCopy: 0 },
  ...{ gather: 4, scatterAdd: 4, cast: 0, fill: 0, axpy: 0, softmax: 0 },
};

/**
 * Times every kernel of a device while f runs.
 * @returns the longest first
 */
export function profileKernels(backend: DeviceBackend, f: () => void): KernelTime[] {
  const addon = backend.addon as unknown as Record<string, Call>;
  const times = new Map<string, KernelTime>();
  const wait = () => backend.addon.synchronize(backend.device);
  const originals = Object.entries(KERNELS).map(([kernel, sizes]) => {
    const original = addon[kernel] as Call;
    addon[kernel] = (device, ...args) => {
      wait();
      const start = performance.now();
      original(device, ...args);
      wait();
      const seconds = (performance.now() - start) / 1000;
      const name = [kernel, ...args.slice(0, sizes)].join(' ');
      const { calls, seconds: before } = times.get(name) ?? { calls: 0, seconds: 0 };
      times.set(name, { name, calls: calls + 1, seconds: before + seconds });
    };
    return [kernel, original] as const;
  });
  f();
  for (const [kernel, original] of originals) addon[kernel] = original;
  return [...times.values()].sort((a, b) => b.seconds - a.seconds);
}
