// SPDX-License-Identifier: Apache-2.0
/** How far two models' logits on the same positions are apart. */

export interface LogitComparison {
  /** Largest absolute difference of two logits. */
  max_abs_logit_difference: number;
  /** Largest absolute logit of the wanted ones. */
  largest_logit: number;
  /** Mean over the positions of KL(wanted || found), nats. */
  mean_kl_divergence: number;
  max_kl_divergence: number;
  /** Share of the positions at which both find the same token likeliest. */
  argmax_agreement: number;
}

/**
 * Compares logits, in float64.
 * @param wanted [positions, vocab_size]
 * @param found as `wanted`; a value that is not finite makes the difference infinite
 */
export function compareLogits(wanted: Float32Array, found: Float32Array, vocabSize: number): LogitComparison {
  if (wanted.length !== found.length || wanted.length % vocabSize !== 0) {
    throw new RangeError(`logits: ${wanted.length} and ${found.length} values for a vocabulary of ${vocabSize}`);
  }
  const positions = wanted.length / vocabSize;
  const divergences: number[] = [];
  let difference = 0;
  let largest = 0;
  let agreed = 0;
  for (let position = 0; position < positions; position++) {
    const row = wanted.subarray(position * vocabSize, (position + 1) * vocabSize);
    const other = found.subarray(position * vocabSize, (position + 1) * vocabSize);
    for (const [token, value] of row.entries()) {
      const apart = Math.abs(value - (other[token] as number));
      difference = Math.max(difference, Number.isFinite(apart) ? apart : Number.POSITIVE_INFINITY);
      largest = Math.max(largest, Math.abs(value));
    }
    divergences.push(divergence(row, other));
    if (likeliest(row) === likeliest(other)) agreed++;
  }
  return {
    max_abs_logit_difference: difference,
    largest_logit: largest,
    mean_kl_divergence: divergences.reduce((sum, value) => sum + value, 0) / positions,
    max_kl_divergence: Math.max(...divergences),
    argmax_agreement: agreed / positions,
  };
}

/** KL(softmax(wanted) || softmax(found)). */
function divergence(wanted: Float32Array, found: Float32Array): number {
  const ours = logSumExp(wanted);
  const theirs = logSumExp(found);
  let sum = 0;
  for (const [token, value] of wanted.entries()) {
    const logProbability = value - ours;
    sum += Math.exp(logProbability) * (logProbability - ((found[token] as number) - theirs));
  }
  // Rounding can leave a sum of next to nothing on the wrong side of zero.
  return Math.max(sum, 0);
}

function logSumExp(logits: Float32Array): number {
  const largest = logits.reduce((max, value) => Math.max(max, value), Number.NEGATIVE_INFINITY);
  return largest + Math.log(logits.reduce((sum, value) => sum + Math.exp(value - largest), 0));
}

function likeliest(logits: Float32Array): number {
  let best = 0;
  for (const [token, value] of logits.entries()) if (value > (logits[best] as number)) best = token;
  return best;
}
