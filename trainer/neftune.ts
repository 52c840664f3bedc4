// SPDX-License-Identifier: Apache-2.0
/** NEFTune (Jain et al. 2023, arXiv 2310.05914): noise on the embeddings in training; answers to neftune_noise_alpha of transformers. */
import { createRandom, randomStreams } from '../src/random.ts';

/**
 * Noise for a batch [batch, seqlen, d_model]: uniform in [-1, 1) times alpha / sqrt(seqlen d_model), seqlen being the batch's with its
 * padding, as in transformers. Depends on seed and microStep alone.
 */
export function neftuneNoise(
  { batch, seqlen }: { batch: number; seqlen: number },
  dModel: number,
  alpha: number,
  { seed, microStep }: { seed: number; microStep: number },
): Float32Array {
  const random = createRandom({ seed, stream: randomStreams.neftune, substream: microStep });
  const scale = alpha / Math.sqrt(seqlen * dModel);
  return Float32Array.from({ length: batch * seqlen * dModel }, () => (2 * random.uniform() - 1) * scale);
}
