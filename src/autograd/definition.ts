// SPDX-License-Identifier: Apache-2.0
/** The registry of gradient definitions: per kernel, what its backward needs and how it is computed. */
import type { Tensor } from '@tensorflow/tfjs-core';

export type KernelInputs = Record<string, Tensor>;
export type Attributes = Record<string, unknown>;

/** What a definition may look at. Tensors in `inputs` may have been disposed of by backward time: read only their shape and dtype. */
export interface GradientContext {
  inputs: KernelInputs;
  attrs: Attributes;
  /** Whether the gradient of this input is wanted. */
  needs(input: string): boolean;
}

export interface GradientDefinition {
  /** The tensors that the backward reads, chosen at forward time; null for one that will not be needed. */
  save(context: GradientContext, outputs: Tensor[]): (Tensor | null)[];
  /**
   * Gradients of the needed inputs.
   * @param dys upstream gradient of each output; null where none reached it
   * @param saved what `save` returned, in its order
   */
  grad(dys: (Tensor | null)[], saved: (Tensor | null)[], context: GradientContext): Record<string, Tensor>;
}

const definitions = new Map<string, GradientDefinition>();

/** Registers the gradient of the kernel `kernelName`, for every backend. */
export function defineGradient(kernelName: string, definition: GradientDefinition): void {
  definitions.set(kernelName, definition);
}

export function gradientOf(kernelName: string): GradientDefinition | undefined {
  return definitions.get(kernelName);
}

/** The upstream gradient of a single-output kernel. */
export function only(dys: (Tensor | null)[]): Tensor {
  const dy = dys[0];
  if (!dy) throw new Error('a gradient was asked for without an upstream gradient');
  return dy;
}

/** A saved tensor that the definition knows to be there. */
export function present<T>(value: T | null | undefined, what = 'saved tensor'): T {
  if (value === null || value === undefined) throw new Error(`gradient definition: ${what} is missing`);
  return value;
}
