// SPDX-License-Identifier: Apache-2.0
/** Kernels SelectiveScan and SelectiveScanGrad on the native devices (contract: native/include/selective_scan.h). */
import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { DeviceBackend } from '../device_backend.ts';
import type { Infos } from './define.ts';
import { defineKernel, required } from './define.ts';

function dimensions(inputs: Infos): [batch: number, seqlen: number, dInner: number, dState: number] {
  const [batch, seqlen, dInner] = required(inputs, 'u').shape as [number, number, number];
  return [batch, seqlen, dInner, required(inputs, 'A').shape[1] as number];
}

function operands(backend: DeviceBackend, inputs: Infos, attrs: Record<string, unknown>): (number | boolean)[] {
  return [
    ...dimensions(inputs),
    ...backend.rows(inputs.u),
    ...backend.rows(inputs.delta),
    backend.handle(inputs.A),
    ...backend.rows(inputs.B),
    ...backend.rows(inputs.C),
    backend.handle(inputs.D),
    ...backend.rows(inputs.z),
    backend.handle(inputs.deltaBias),
    backend.handle(inputs.seqIdx),
    backend.handle(inputs.h0),
    attrs.deltaSoftplus as boolean,
  ];
}

/**
 * attrs: deltaSoftplus, returnLastState, updateState (the last state goes into h0's memory), saveCheckpoints. Outputs: out, then
 * lastState and checkpoints where asked for.
 */
defineKernel('SelectiveScan', (backend, inputs, attrs) => {
  const { addon, device } = backend;
  const [batch, seqlen, dInner, dState] = dimensions(inputs);
  const out = backend.output([batch, seqlen, dInner]);
  const lastState = attrs.returnLastState ? backend.output([batch, dInner, dState]) : undefined;
  const checkpoints = attrs.saveCheckpoints
    ? backend.output([addon.selectiveScanCheckpointSize(device, batch, seqlen, dInner, dState)])
    : undefined;
  addon.selectiveScanFwd(
    device,
    ...operands(backend, inputs, attrs),
    backend.handle(out),
    backend.handle(attrs.updateState ? inputs.h0 : lastState),
    backend.handle(checkpoints),
  );
  return [out, lastState, checkpoints].filter((info): info is TensorInfo => info !== undefined);
});

/**
 * attrs: deltaSoftplus and needs (a list out of A, D, deltaBias, h0). Outputs: du, ddelta, dB, dC, dz when there is a z, then the
 * needed ones in that order.
 */
defineKernel('SelectiveScanGrad', (backend, inputs, attrs) => {
  const [batch, seqlen, dInner, dState] = dimensions(inputs);
  const needs = attrs.needs as string[];
  const when = (wanted: boolean, shape: number[]) => (wanted ? backend.output(shape) : undefined);
  const du = backend.output([batch, seqlen, dInner]);
  const ddelta = backend.output([batch, seqlen, dInner]);
  const dB = backend.output([batch, seqlen, dState]);
  const dC = backend.output([batch, seqlen, dState]);
  const dz = when(inputs.z !== undefined, [batch, seqlen, dInner]);
  const dA = when(needs.includes('A'), [dInner, dState]);
  const dD = when(needs.includes('D'), [dInner]);
  const ddeltaBias = when(needs.includes('deltaBias'), [dInner]);
  const dh0 = when(needs.includes('h0'), [batch, dInner, dState]);
  backend.addon.selectiveScanBwd(
    backend.device,
    ...operands(backend, inputs, attrs),
    backend.handle(required(inputs, 'checkpoints')),
    backend.handle(required(inputs, 'dout')),
    backend.handle(inputs.dlastState),
    ...[du, ddelta, dB, dC, dz].flatMap((info) => backend.rows(info)),
    ...[dA, dD, ddeltaBias, dh0].map((info) => backend.handle(info)),
    0,
  );
  return [du, ddelta, dB, dC, dz, dA, dD, ddeltaBias, dh0].filter((info): info is TensorInfo => info !== undefined);
});
