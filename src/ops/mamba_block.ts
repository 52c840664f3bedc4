// SPDX-License-Identifier: Apache-2.0
/**
 * A whole Mamba block with frozen base weights as one op: norm, in_proj, convolution, x_proj, dt_proj, scan, out_proj, every
 * projection with its LoRA adapter. Answers to MambaInnerFn of state-spaces/mamba, which has no adapters.
 *
 * Same formulas as the ops that it runs (rmsNorm, loraLinear, causalConv1d, selectiveScan); what differs is the schedule. The
 * forward keeps the norm's input, the outputs of in_proj and x_proj and the scan's checkpoints, 3 d_inner floats a position where the
 * ops by themselves keep 7. The backward computes the convolution and delta again, takes the scan's output from the scan's own
 * backward and the normed input of in_proj's lora_A gradient as the norm's input by its rows' scales, writes gradients of the parts of
 * one matrix side by side, and adds x_proj's gradient of u in place.
 */
import type { Scalar, Tensor, Tensor1D, Tensor2D, Tensor3D } from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../autograd/engine.ts';
import { needsGradient } from '../autograd/tape.ts';

/** The projections, by the prefix of their operands' names, in the order in which they run. */
export const BLOCK_LINEARS = ['inProj', 'xProj', 'dtProj', 'outProj'] as const;
export type BlockLinear = (typeof BLOCK_LINEARS)[number];

/** One projection: weight [out, in] and bias [out], frozen; adapter A [r, in] and B [out, r], given together. */
export interface BlockLinearInputs {
  W: Tensor2D;
  bias?: Tensor1D | null;
  A?: Tensor2D | null;
  B?: Tensor2D | null;
  /** Factor of the adapter's term. Default 1. */
  scaling?: number;
  /** Probability that an element of the adapter's input is zeroed, in [0, 1). Default 0. */
  dropout?: number;
  /** Counter of the dropout mask. Default 0. */
  offset?: number;
}

/** What a layer is computed from. */
export interface MambaLayerInputs<Linear> extends Record<BlockLinear, Linear> {
  /** [batch, seqlen, d_model], float32. */
  hidden: Tensor3D;
  /** The residual stream that hidden is added to [batch, seqlen, d_model]. Default none: hidden is the stream. */
  residual?: Tensor3D | null;
  /** Weight of the norm [d_model]. */
  norm: Tensor1D;
  /** [d_inner, d_conv] */
  convWeight: Tensor2D;
  /** [d_inner]. Default none. */
  convBias?: Tensor1D | null;
  /** [d_inner, d_state], -exp(A_log). */
  A: Tensor2D;
  /** [d_inner] */
  D: Tensor1D;
}

export interface MambaBlockInputs extends MambaLayerInputs<BlockLinearInputs> {
  /** Document of each position [batch, seqlen], int32. Default one document a row. */
  seqIdx?: Tensor2D | null;
  /** As in loraLinear. Default none. */
  dropoutStep?: Scalar | null;
}

export type MambaBlockResult = {
  /** The mixer's output, not yet added to the residual [batch, seqlen, d_model]. */
  out: Tensor3D;
  /** The residual stream that it is to be added to: hidden + residual, or hidden itself. */
  residualOut: Tensor3D;
};

/** Whether the backend has the fused block. */
export function hasMambaBlock(): boolean {
  return hasKernel('MambaBlock');
}

/**
 * Computes the block. Differentiable in hidden, residual and the adapters; everything else must be frozen. The bias of dtProj is
 * added inside the scan.
 * @param options.eps of the norm
 * @param options.seed key of the dropout masks. Default 0
 */
export function mambaBlock(inputs: MambaBlockInputs, options: { eps: number; seed?: number }): MambaBlockResult {
  const tensors = kernelOperands(inputs);
  const settings = Object.fromEntries(
    BLOCK_LINEARS.map((name) => {
      const { scaling = 1, dropout = 0, offset = 0 } = inputs[name];
      return [name, { scaling, dropout, offset }];
    }),
  );
  const saves = Object.values(tensors).some(needsGradient);
  const outputs = runKernel<Tensor[]>('MambaBlock', tensors, { ...options, settings, saves });
  const [out, residualOut] = (inputs.residual ? outputs : [outputs[0], inputs.hidden]) as [Tensor3D, Tensor3D];
  for (const saved of outputs.slice(inputs.residual ? 2 : 1)) saved.dispose();
  return { out, residualOut };
}

/** A layer's inputs under the names that its kernels have for them: those of a projection stand behind its name. */
export function kernelOperands(inputs: MambaLayerInputs<BlockLinearInputs>): Record<string, Tensor | null | undefined> {
  const { inProj, xProj, dtProj, outProj, ...rest } = inputs;
  const tensors: Record<string, Tensor | null | undefined> = { ...rest };
  for (const [name, { W, bias, A, B }] of Object.entries({ inProj, xProj, dtProj, outProj })) {
    Object.assign(tensors, { [`${name}W`]: W, [`${name}Bias`]: bias, [`${name}A`]: A, [`${name}B`]: B });
  }
  return tensors;
}
