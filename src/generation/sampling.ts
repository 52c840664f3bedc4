// SPDX-License-Identifier: Apache-2.0
/**
 * From scores over the vocabulary to a token. Temperature, top-k, top-p and min-p are transformers' logits warpers
 * (generation/logits_process.py), and come in its order: temperature, top_k, top_p, min_p.
 */
import { UserError } from '../errors.ts';
import type { Random } from '../random.ts';

/** @throws UserError when a logit is not a number */
export function checkNumbers(logits: Float32Array): void {
  for (let id = 0; id < logits.length; id++) {
    if (Number.isNaN(logits[id])) throw notANumber(` (token ${id})`);
  }
}

/**
 * Index of the largest score, the first of equal ones.
 * @throws UserError when none is above -Infinity
 */
export function greedy(scores: Float32Array): number {
  let best = -1;
  let largest = Number.NEGATIVE_INFINITY;
  for (let id = 0; id < scores.length; id++) {
    const score = scores[id] as number;
    if (score > largest) {
      largest = score;
      best = id;
    }
  }
  if (best === -1) throw noToken();
  return best;
}

/** No score is above -Infinity. */
export function noToken(): UserError {
  return new UserError('the options of the generation leave no token to choose: every one is forbidden.');
}

/** @param where of the logit, where it is known */
export function notANumber(where = ''): UserError {
  return new UserError(
    `the model gave a logit that is not a number${where}. Its weights or the adapter's are damaged, or it was trained to divergence.`,
  );
}

/** scores / temperature (TemperatureLogitsWarper). */
export function scaleByTemperature(scores: Float32Array, temperature: number): Float32Array {
  if (temperature === 1) return scores;
  const result = new Float32Array(scores.length);
  for (let id = 0; id < result.length; id++) result[id] = (scores[id] as number) / temperature;
  return result;
}

/** Scores below the k-th largest become -Infinity; ties with it stay (TopKLogitsWarper). k = 0 keeps all. */
export function keepTopK(scores: Float32Array, k: number): Float32Array {
  return k === 0 || k >= scores.length ? scores : keepFrom(scores, kthLargest(scores, k));
}

/**
 * Keeps the likeliest tokens up to and with the one at which their probabilities sum to `p`, at least one; the others
 * become -Infinity (TopPLogitsWarper). Of equal scores at the edge, the lower ids stay.
 */
export function keepTopP(scores: Float32Array, p: number): Float32Array {
  if (p >= 1) return scores;
  const largest = largestOf(scores);
  let total = 0;
  for (const score of scores) total += Math.exp(score - largest);

  // As transformers: from the smallest, tokens go while their probabilities sum to at most 1 - p; never the last. Those far
  // below the largest usually go together, which leaves few to sort.
  const likely = scores.filter((score) => score > largest - SORTED_DEPTH);
  const likelySum = likely.reduce((sum, score) => sum + Math.exp(score - largest), 0);
  const farGo = (total - likelySum) / total <= 1 - p;
  const ascending = (farGo ? likely : scores).toSorted();
  let sum = farGo ? (total - likelySum) / total : 0;
  let removed = 0;
  for (; removed < ascending.length - 1; removed++) {
    sum += Math.exp((ascending[removed] as number) - largest) / total;
    if (sum > 1 - p) break;
  }
  const edge = ascending[removed] as number;
  let tiesToKeep = ascending.lastIndexOf(edge) - removed + 1;
  return scores.map((score) =>
    score > edge || (score === edge && tiesToKeep-- > 0) ? score : Number.NEGATIVE_INFINITY,
  );
}

/** e^-12: what is less likely than the likeliest by more is not sorted. */
const SORTED_DEPTH = 12;

/** Tokens less likely than `p` times the likeliest become -Infinity (MinPLogitsWarper). */
export function keepMinP(scores: Float32Array, p: number): Float32Array {
  return p === 0 ? scores : keepFrom(scores, largestOf(scores) + Math.log(p));
}

/**
 * Draws a token with probability softmax(scores), by one uniform number.
 * @throws UserError when no score is above -Infinity
 */
export function sample(scores: Float32Array, random: Random): number {
  const likeliest = greedy(scores);
  const largest = scores[likeliest] as number;
  const weights = new Float64Array(scores.length);
  let total = 0;
  for (let id = 0; id < weights.length; id++) {
    const score = scores[id] as number;
    if (score === Number.NEGATIVE_INFINITY) continue;
    weights[id] = Math.exp(score - largest);
    total += weights[id] as number;
  }
  const threshold = random.uniform() * total;
  let sum = 0;
  for (let id = 0; id < weights.length; id++) {
    sum += weights[id] as number;
    if (sum > threshold) return id;
  }
  return likeliest;
}

function keepFrom(scores: Float32Array, threshold: number): Float32Array {
  const result = scores.slice();
  for (let id = 0; id < result.length; id++) {
    if ((result[id] as number) < threshold) result[id] = Number.NEGATIVE_INFINITY;
  }
  return result;
}

function largestOf(scores: Float32Array): number {
  let largest = Number.NEGATIVE_INFINITY;
  for (const score of scores) if (score > largest) largest = score;
  return largest;
}

/** The k-th largest of values without NaN (quickselect), 1 <= k <= length. */
function kthLargest(scores: Float32Array, k: number): number {
  const values = scores.slice();
  const target = values.length - k;
  let low = 0;
  let high = values.length - 1;
  while (low < high) {
    const pivot = values[(low + high) >> 1] as number;
    let i = low;
    let j = high;
    while (i <= j) {
      while ((values[i] as number) < pivot) i++;
      while ((values[j] as number) > pivot) j--;
      if (i > j) break;
      const value = values[i] as number;
      values[i++] = values[j] as number;
      values[j--] = value;
    }
    if (target <= j) high = j;
    else if (target >= i) low = i;
    else break;
  }
  return values[target] as number;
}
