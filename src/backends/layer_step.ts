// SPDX-License-Identifier: Apache-2.0
/** One position of every row through a Mamba layer in one call into the addon (native/binding/mamba_layer_step.cc): its arguments. */
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { DEVICE_INDEX } from './addon.ts';
import type { DeviceBackend } from './device_backend.ts';

/** What a weight may be taken for (Arguments::weight of the addon). */
export const WEIGHT_KIND = { changing: 0, frozen: 1, frozenBfloat16: 2 } as const;
export type WeightKind = (typeof WEIGHT_KIND)[keyof typeof WEIGHT_KIND];

/** W [out, in], or [vocab_size, d_model] with lora_A [r, vocab_size] and lora_B [d_model, r] for an embedding. */
export interface StepLinear {
  weight: TensorInfo;
  bias: TensorInfo | null;
  lora: { A: TensorInfo; B: TensorInfo; scaling: number } | null;
}

export interface StepLayer {
  /** [d_model] */
  norm: TensorInfo;
  inProj: StepLinear;
  /** [d_inner, d_conv], or with an axis of 1 between. */
  convWeight: TensorInfo;
  convBias: TensorInfo | null;
  xProj: StepLinear;
  dtProj: StepLinear;
  /** [d_inner, d_state]: -exp(A_log) */
  A: TensorInfo;
  D: TensorInfo;
  outProj: StepLinear;
}

/** The arguments from the number of rows to the last parameter; the state, the stream and the scratch memory follow. */
export function layerArguments(
  backend: DeviceBackend,
  layer: StepLayer,
  { rows, dModel, eps, kind }: { rows: number; dModel: number; eps: number; kind: WeightKind },
): number[] {
  const { dInner, dState, dConv, dtRank } = sizesOf(layer);
  const handle = (info: TensorInfo | null) => backend.handle(info ?? undefined);
  const linear = ({ weight, bias, lora }: StepLinear) => [
    ...[handle(weight), kind, handle(bias)],
    ...(lora ? [lora.A.shape[0] as number, handle(lora.A), handle(lora.B), lora.scaling] : [0, 0, 0, 1]),
  ];
  return [
    ...[rows, dModel, dInner, dState, dConv, dtRank, eps, handle(layer.norm)],
    ...[...linear(layer.inProj), handle(layer.convWeight), handle(layer.convBias)],
    ...[...linear(layer.xProj), ...linear(layer.dtProj), handle(layer.A), handle(layer.D), ...linear(layer.outProj)],
  ];
}

/** Rows that the addon takes at once where the device has no step of its own, so that a row's bits do not depend on the batch. */
export const ROWS_AT_ONCE = 8;

/** Floats that mamba_layer_step.cc works in; 0 where the device brings its own memory. */
export function scratchFloats(backend: DeviceBackend, layer: StepLayer, dModel: number): number {
  if (backend.device === DEVICE_INDEX.cuda) return 0;
  const { dInner, dState, dtRank } = sizesOf(layer);
  const linears = [layer.inProj, layer.xProj, layer.dtProj, layer.outProj];
  const mostR = Math.max(...linears.map(({ lora }) => lora?.A.shape[0] ?? 0));
  return ROWS_AT_ONCE * (dModel + 5 * dInner + dtRank + 2 * dState + mostR);
}

function sizesOf({ convWeight, A, dtProj }: StepLayer) {
  const [dInner, dConv] = [convWeight.shape[0] as number, convWeight.shape.at(-1) as number];
  return { dInner, dConv, dState: A.shape[1] as number, dtRank: dtProj.weight.shape[1] as number };
}
