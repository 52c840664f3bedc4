// SPDX-License-Identifier: Apache-2.0
/** LoRA+ (Hayou et al. 2024): lora_B learns faster than lora_A; answers to create_loraplus_optimizer of peft. */
import type { TrainerSettings } from './training_job.ts';

/**
 * What a parameter's learning rate is multiplied by: loraplus_lr_ratio for lora_B and all vectors (magnitudes, biases, norms), the
 * share that loraplus_lr_embedding is of learning_rate for an adapter of the embeddings, 1 for the others; 1 for all without LoRA+.
 */
export function learningRateFactor(settings: TrainerSettings): (name: string, shape: readonly number[]) => number {
  const { loraplus_lr_ratio: ratio, loraplus_lr_embedding: embedding, learning_rate: learningRate } = settings;
  if (ratio === null) return () => 1;
  return (name, shape) => {
    if (name.startsWith('base_model.model.backbone.embeddings.lora_')) return embedding / learningRate;
    return name.includes('.lora_B.') || shape.length === 1 ? ratio : 1;
  };
}
