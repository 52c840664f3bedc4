// SPDX-License-Identifier: Apache-2.0
/**
 * One position of every row through a Mamba layer as one op, which writes the state after it over the one before it: what single
 * tokens of a generation are. Same formulas as the ops that it stands for (rmsNorm, loraLinear, causalConv1d, selectiveScan); the
 * backends have it where they have mambaBlock, and it has no gradient.
 */
import type { Tensor, Tensor3D } from '@tensorflow/tfjs-core';
import { runKernel } from '../autograd/engine.ts';
import { isFrozen } from './frozen.ts';
import {
  BLOCK_LINEARS,
  type BlockLinear,
  type BlockLinearInputs,
  kernelOperands,
  type MambaLayerInputs,
} from './mamba_block.ts';
import { checkDtype, checkShape } from './shapes.ts';

/** seqlen is 1, and d_conv at most 8. */
export interface MambaLayerStepInputs extends MambaLayerInputs<Omit<BlockLinearInputs, 'dropout' | 'offset'>> {
  /** The last inputs of the convolution, written over [batch, d_conv - 1, d_inner]. */
  convState: Tensor3D;
  /** Written over [batch, d_inner, d_state]. */
  ssmState: Tensor3D;
}

export type MambaLayerStepResult = {
  /** The mixer's output, not yet added to the residual [batch, 1, d_model]. */
  out: Tensor3D;
  /** The residual stream that it is to be added to: hidden + residual, or hidden itself. */
  residualOut: Tensor3D;
};

/**
 * Computes the step. The bias of dtProj is added inside the scan.
 * @param options.eps of the norm
 * @throws when a shape or dtype is not the documented one
 */
export function mambaLayerStep(inputs: MambaLayerStepInputs, options: { eps: number }): MambaLayerStepResult {
  check(inputs);
  const tensors = kernelOperands(inputs);
  const scaling = Object.fromEntries(BLOCK_LINEARS.map((name) => [name, inputs[name].scaling ?? 1]));
  const frozen = BLOCK_LINEARS.every((name) => isFrozen(inputs[name].W));
  const [out, sum] = runKernel<Tensor[]>('MambaLayerStep', tensors, { ...options, scaling, frozen }) as [
    Tensor3D,
    Tensor3D?,
  ];
  return { out, residualOut: sum ?? inputs.hidden };
}

function check(inputs: MambaLayerStepInputs): void {
  const op = 'mambaLayerStep';
  const { hidden, residual, norm, convWeight, convBias, A, D, convState, ssmState } = inputs;
  const [batch, , dModel] = hidden.shape;
  const [dInner, dConv] = convWeight.shape;
  const dState = A.shape[1];
  const dtRank = inputs.dtProj.W.shape[1];
  checkShape(op, 'hidden', hidden, [batch, 1, dModel]);
  checkShape(op, 'residual', residual, [batch, 1, dModel]);
  checkShape(op, 'norm', norm, [dModel]);
  checkShape(op, 'convBias', convBias, [dInner]);
  checkShape(op, 'A', A, [dInner, dState]);
  checkShape(op, 'D', D, [dInner]);
  checkShape(op, 'convState', convState, [batch, dConv - 1, dInner]);
  checkShape(op, 'ssmState', ssmState, [batch, dInner, dState]);
  const shapes: Record<BlockLinear, [out: number, inFeatures: number]> = {
    inProj: [2 * dInner, dModel],
    xProj: [dtRank + 2 * dState, dInner],
    dtProj: [dInner, dtRank],
    outProj: [dModel, dInner],
  };
  for (const name of BLOCK_LINEARS) {
    const { W, bias, A: loraA, B: loraB } = inputs[name];
    const [out, inFeatures] = shapes[name];
    checkShape(op, `${name}.W`, W, [out, inFeatures]);
    checkShape(op, `${name}.bias`, bias, [out]);
    if (!loraA !== !loraB) throw new Error(`${op}: ${name}.A and ${name}.B must be given together`);
    if (loraA) checkShape(op, `${name}.A`, loraA, [loraA.shape[0], inFeatures]);
    if (loraA) checkShape(op, `${name}.B`, loraB, [out, loraA.shape[0]]);
    for (const [part, tensor] of Object.entries({ W, bias, A: loraA, B: loraB }))
      checkDtype(op, `${name}.${part}`, tensor, 'float32');
  }
  const others = { hidden, residual, norm, convWeight, convBias, A, D, convState, ssmState };
  for (const [name, tensor] of Object.entries(others)) checkDtype(op, name, tensor, 'float32');
}
