// SPDX-License-Identifier: Apache-2.0
/**
 * The private members of tfjs-core's engine that recording needs, under types, in this one place. tfjs-core is pinned to 4.22.0
 * because of them.
 */
import type { NamedAttrMap, NamedTensorMap, Tensor, TensorInfo } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';

export interface RecordingEngine {
  state: { gradientDepth: number; kernelDepth: number };
  runKernel<T extends Tensor | Tensor[]>(name: string, inputs: NamedTensorMap, attrs?: NamedAttrMap): T;
  tidy<T>(name: string, f: () => T): T;
  keep<T extends Tensor>(tensor: T): T;
  makeTensorFromTensorInfo(info: TensorInfo): Tensor;
  getTensorsForGradient(kernelName: string, inputs: NamedTensorMap, outputs: Tensor[]): Tensor[] | null;
  saveTensorsForBackwardMode(tensors: Tensor[] | null): Tensor[];
  addTapeNode(
    kernelName: string,
    inputs: NamedTensorMap,
    outputs: Tensor[],
    gradientsFunc: ((dy: Tensor | Tensor[], saved: Tensor[]) => NamedTensorMap) | null,
    saved: Tensor[],
    attrs: NamedAttrMap,
  ): void;
}

export const recordingEngine = tf.engine() as unknown as RecordingEngine;

/** Runs a kernel with inputs that may be absent: those keys are left out, as the engine wants it. */
export function runKernel<T extends Tensor | Tensor[]>(
  name: string,
  inputs: Record<string, Tensor | null | undefined>,
  attrs: Record<string, unknown> = {},
): T {
  const given = Object.entries(inputs).filter((entry): entry is [string, Tensor] => entry[1] != null);
  return recordingEngine.runKernel<T>(name, Object.fromEntries(given), attrs as NamedAttrMap);
}

/** Whether the active backend has a kernel of this name. */
export function hasKernel(name: string): boolean {
  return tf.getKernel(name, tf.getBackend()) != null;
}
