// SPDX-License-Identifier: Apache-2.0
/** The model's layers as records over its parameters: what an adapter attaches to. */
import type { Scalar, Tensor, Tensor1D, Tensor2D, Variable } from '@tensorflow/tfjs-core';
import { loraEmbedding } from '../ops/lora_embedding.ts';
import { loraLinear, MASKS_PER_STEP } from '../ops/lora_linear.ts';

/** A low-rank adapter on one module. Linear: A [r, in], B [out, r]. Embedding: A [r, vocab_size], B [d_model, r]. */
export interface LoraWeights {
  A: Variable;
  B: Variable;
  scaling: number;
  /** Probability of zeroing an element of a linear adapter's input while training. */
  dropout: number;
}

export interface LinearModule {
  readonly kind: 'linear';
  /** As in checkpoints: backbone.layers.0.mixer.in_proj */
  readonly name: string;
  /** Position in the model: tells the dropout masks of two modules apart. */
  readonly index: number;
  /** [out, in] */
  readonly weight: Variable;
  /** [out], or null. */
  readonly bias: Variable | null;
  lora: LoraWeights | null;
}

export interface EmbeddingModule {
  readonly kind: 'embedding';
  readonly name: string;
  readonly index: number;
  /** [vocab_size, d_model] */
  readonly weight: Variable;
  lora: LoraWeights | null;
}

export type Module = LinearModule | EmbeddingModule;

/**
 * Names a training micro-step, so that its dropout masks differ from every other's: a number, or an int32 scalar that a recorded
 * step reads at each launch. Null: evaluation, no dropout.
 */
export type DropoutState = { seed: number; step: number | Scalar } | null;

/**
 * Applies a linear module.
 * @param bias null leaves the module's bias out (dt_proj's is added inside the scan)
 */
export function applyLinear(
  module: LinearModule,
  x: Tensor,
  dropout: DropoutState,
  bias: Variable | null = module.bias,
): Tensor {
  const { lora } = module;
  const isDropping = dropout !== null && lora !== null && lora.dropout > 0;
  return loraLinear(
    {
      x,
      W: module.weight as unknown as Tensor2D,
      bias: bias as Tensor1D | null,
      loraA: (lora?.A ?? null) as Tensor2D | null,
      loraB: (lora?.B ?? null) as Tensor2D | null,
      dropoutStep: isDropping && typeof dropout.step !== 'number' ? dropout.step : null,
    },
    {
      scaling: lora?.scaling ?? 1,
      ...(isDropping && { dropout: lora.dropout, seed: dropout.seed, offset: firstMask(dropout.step) + module.index }),
    },
  );
}

function firstMask(step: number | Scalar): number {
  return typeof step === 'number' ? step * MASKS_PER_STEP : 0;
}

/** Looks ids [batch, seqlen] up in an embedding module. */
export function applyEmbedding(module: EmbeddingModule, ids: Tensor): Tensor {
  const { lora, weight } = module;
  return loraEmbedding(
    {
      ids,
      W: weight as unknown as Tensor2D,
      loraA: (lora?.A ?? null) as Tensor2D | null,
      loraB: (lora?.B ?? null) as Tensor2D | null,
    },
    lora?.scaling ?? 1,
  );
}

/** A module's adapter tensors under peft's names. */
export function adapterTensors(module: Module): [string, Variable][] {
  if (!module.lora) return [];
  const prefix = `base_model.model.${module.name}`;
  const { A, B } = module.lora;
  return module.kind === 'embedding'
    ? [
        [`${prefix}.lora_embedding_A`, A],
        [`${prefix}.lora_embedding_B`, B],
      ]
    : [
        [`${prefix}.lora_A.weight`, A],
        [`${prefix}.lora_B.weight`, B],
      ];
}
