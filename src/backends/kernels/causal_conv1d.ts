// SPDX-License-Identifier: Apache-2.0
/** Kernels CausalConv1d and CausalConv1dGrad on the native devices (contract: native/include/causal_conv1d.h). */
import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { DeviceBackend } from '../device_backend.ts';
import type { Infos } from './define.ts';
import { defineKernel, required } from './define.ts';

function dimensions(inputs: Infos): [batch: number, seqlen: number, dInner: number, dConv: number] {
  const [batch, seqlen, dInner] = required(inputs, 'x').shape as [number, number, number];
  return [batch, seqlen, dInner, required(inputs, 'weight').shape[1] as number];
}

function operands(backend: DeviceBackend, inputs: Infos, attrs: Record<string, unknown>): (number | boolean)[] {
  return [
    ...dimensions(inputs),
    ...backend.rows(inputs.x),
    backend.handle(inputs.weight),
    backend.handle(inputs.bias),
    backend.handle(inputs.seqIdx),
    backend.handle(inputs.convState),
    attrs.silu as boolean,
  ];
}

/** n, r, dout, W, dxa, lora_A and dlora_A of an x_proj whose backward goes along with the convolution's: none. */
export const NO_X_PROJ = [0, 0, 0, 0, 0, 0, 0];

/** attrs: silu, returnLastState, updateState (the last inputs go into convState's memory). Outputs: y, then lastConvState where asked for. */
defineKernel('CausalConv1d', (backend, inputs, attrs) => {
  const [batch, seqlen, dInner, dConv] = dimensions(inputs);
  const y = backend.output([batch, seqlen, dInner]);
  const lastConvState = attrs.returnLastState ? backend.output([batch, dConv - 1, dInner]) : undefined;
  backend.addon.causalConv1dFwd(
    backend.device,
    ...operands(backend, inputs, attrs),
    backend.handle(y),
    backend.handle(attrs.updateState ? inputs.convState : lastConvState),
  );
  return lastConvState ? [y, lastConvState] : [y];
});

/** attrs: silu and needs (a list out of weight, bias). Outputs: dx, then the needed ones in that order. */
defineKernel('CausalConv1dGrad', (backend, inputs, attrs) => {
  const [batch, seqlen, dInner, dConv] = dimensions(inputs);
  const needs = attrs.needs as string[];
  const dx = backend.output([batch, seqlen, dInner]);
  const dweight = needs.includes('weight') ? backend.output([dInner, dConv]) : undefined;
  const dbias = needs.includes('bias') ? backend.output([dInner]) : undefined;
  backend.addon.causalConv1dBwd(
    backend.device,
    ...operands(backend, inputs, attrs),
    backend.handle(required(inputs, 'dy')),
    ...backend.rows(dx),
    backend.handle(dweight),
    backend.handle(dbias),
    ...NO_X_PROJ,
  );
  return [dx, dweight, dbias].filter((info): info is TensorInfo => info !== undefined);
});
