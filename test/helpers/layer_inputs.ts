// SPDX-License-Identifier: Apache-2.0
/** A layer's inputs from tensors under its kernels' names. */
import type { Tensor, Tensor1D, Tensor2D, Tensor3D } from '@tensorflow/tfjs-core';
import type { BlockLinear, BlockLinearInputs, MambaLayerInputs } from '../../src/ops/mamba_block.ts';

/** @param settings what a projection has beside its tensors */
export function layerInputs(
  t: Record<string, Tensor>,
  settings: (linear: BlockLinear) => Omit<BlockLinearInputs, 'W' | 'bias' | 'A' | 'B'>,
): MambaLayerInputs<BlockLinearInputs> {
  const linear = (name: BlockLinear): BlockLinearInputs => ({
    W: t[`${name}W`] as Tensor2D,
    bias: t[`${name}Bias`] as Tensor1D | undefined,
    A: t[`${name}A`] as Tensor2D | undefined,
    B: t[`${name}B`] as Tensor2D | undefined,
    ...settings(name),
  });
  return {
    hidden: t.hidden as Tensor3D,
    residual: t.residual as Tensor3D,
    norm: t.norm as Tensor1D,
    convWeight: t.convWeight as Tensor2D,
    convBias: t.convBias as Tensor1D,
    A: t.A as Tensor2D,
    D: t.D as Tensor1D,
    inProj: linear('inProj'),
    xProj: linear('xProj'),
    dtProj: linear('dtProj'),
    outProj: linear('outProj'),
  };
}
