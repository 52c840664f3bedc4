// SPDX-License-Identifier: Apache-2.0
/**
 * From the logits of one position to the next token. Temperature, top-k and top-p are transformers' logits warpers
 * (generation/logits_process.py), in its order: temperature, then top_k, then top_p.
 */
import { ConfigError, UserError } from '../errors.ts';
import { createRandom, type Random, randomStreams } from '../random.ts';

export interface SamplingOptions {
  /** Draw from the distribution (true) or take the likeliest token (false). Default false. */
  doSample?: boolean;
  /** Logits are divided by it: below 1 sharper, above 1 flatter. Above 0; default 1. Only with `doSample`. */
  temperature?: number;
  /** Draw from the `topK` likeliest tokens; 0 is all. Default 50. Only with `doSample`. */
  topK?: number;
  /** Draw from the fewest likeliest tokens whose probabilities sum to at least this; 1 is all. In [0, 1], default 1. Only with `doSample`. */
  topP?: number;
  /** Same seed, same tokens. An integer in [0, 2^53); by default a new one each time. Only with `doSample`. */
  seed?: number;
}

/**
 * Chooses a token id from the logits [vocab_size] of a position.
 * @throws UserError when a logit is not a number
 */
export type TokenChooser = (logits: Float32Array) => number;

/**
 * The chooser for one row of a batch. Rows draw from random streams of their own, so that a row's tokens do not depend on
 * how many other rows there are.
 *
 * @param row index in the batch, from 0
 * @throws ConfigError naming every option whose value is not what it may be
 */
export function tokenChooser(options: SamplingOptions, row: number): TokenChooser {
  checkSamplingOptions(options);
  const { doSample = false, temperature = 1, topK = 50, topP = 1, seed = randomSeed() } = options;
  const random = createRandom({ seed, stream: randomStreams.sampling, substream: row });
  return (logits) => {
    checkNumbers(logits);
    if (!doSample) return greedy(logits);
    return sample(keepTopP(keepTopK(scaleByTemperature(logits, temperature), topK), topP), random);
  };
}

/** A seed that nobody chose, in [0, 2^32). */
export function randomSeed(): number {
  return Math.floor(Math.random() * 2 ** 32);
}

/**
 * Checks options without using them.
 * @throws ConfigError naming every option whose value is not what it may be, or that greedy choice would ignore
 */
export function checkSamplingOptions(options: SamplingOptions): void {
  const { doSample = false, temperature, topK, topP, seed } = options;
  const faults: string[] = [];
  const check = (name: string, value: number | undefined, isValid: (value: number) => boolean, expected: string) => {
    if (value === undefined) return;
    if (!doSample) faults.push(`${name} is ${value}, but without sampling (doSample) nothing uses it`);
    else if (!isValid(value)) faults.push(`${name} is ${value}; expected ${expected}`);
  };
  check(
    'temperature',
    temperature,
    (value) => value > 0 && value < Number.POSITIVE_INFINITY,
    'a number above 0 (the likeliest token without chance is greedy choice, without sampling)',
  );
  check('topK', topK, (value) => Number.isSafeInteger(value) && value >= 0, 'a whole number from 1, or 0 for all');
  check('topP', topP, (value) => value >= 0 && value <= 1, 'a number from 0 to 1');
  check('seed', seed, (value) => Number.isSafeInteger(value) && value >= 0, 'a whole number from 0 to 2^53 - 1');
  if (faults.length > 0) throw new ConfigError(`generation: ${faults.join('; ')}.`);
}

/** Index of the largest logit, the first of equal ones. */
export function greedy(logits: Float32Array): number {
  let best = 0;
  let largest = Number.NEGATIVE_INFINITY;
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id] ?? 0;
    if (logit > largest) {
      largest = logit;
      best = id;
    }
  }
  return best;
}

/** logits / temperature (TemperatureLogitsWarper). */
export function scaleByTemperature(logits: Float32Array, temperature: number): Float32Array {
  return temperature === 1 ? logits : logits.map((logit) => logit / temperature);
}

/** Logits below the k-th largest become -Infinity; ties with it stay (TopKLogitsWarper). k = 0 keeps all. */
export function keepTopK(logits: Float32Array, k: number): Float32Array {
  if (k === 0 || k >= logits.length) return logits;
  const threshold = logits.toSorted().at(-k) ?? Number.NEGATIVE_INFINITY;
  return logits.map((logit) => (logit < threshold ? Number.NEGATIVE_INFINITY : logit));
}

/**
 * Keeps the likeliest tokens up to and with the one at which their probabilities sum to `p`, at least one; the others
 * become -Infinity (TopPLogitsWarper). Of equal logits at the edge, the lower ids stay.
 */
export function keepTopP(logits: Float32Array, p: number): Float32Array {
  if (p >= 1) return logits;
  const ascending = logits.toSorted();
  const largest = ascending.at(-1) ?? 0;
  const weights = Float64Array.from(ascending, (logit) => Math.exp(logit - largest));
  const total = weights.reduce((sum, weight) => sum + weight, 0);

  // As transformers: from the smallest, tokens go while their probabilities sum to at most 1 - p; never the last.
  let removed = 0;
  for (let sum = 0; removed < ascending.length - 1; removed++) {
    sum += (weights[removed] ?? 0) / total;
    if (sum > 1 - p) break;
  }
  const edge = ascending[removed] ?? 0;
  let tiesToKeep = ascending.lastIndexOf(edge) - removed + 1;
  return logits.map((logit) => {
    const isKept = logit > edge || (logit === edge && tiesToKeep-- > 0);
    return isKept ? logit : Number.NEGATIVE_INFINITY;
  });
}

/** Draws a token with probability softmax(logits), by one uniform number. */
export function sample(logits: Float32Array, random: Random): number {
  const likeliest = greedy(logits);
  const largest = logits[likeliest] ?? 0;
  const cumulative = new Float64Array(logits.length);
  let total = 0;
  for (let id = 0; id < logits.length; id++) {
    total += Math.exp((logits[id] ?? 0) - largest);
    cumulative[id] = total;
  }
  const threshold = random.uniform() * total;
  const id = cumulative.findIndex((sum) => sum > threshold);
  return id === -1 ? likeliest : id;
}

function checkNumbers(logits: Float32Array): void {
  const id = logits.findIndex(Number.isNaN);
  if (id === -1) return;
  throw new UserError(
    `the model gave a logit that is not a number (token ${id}). Its weights or the adapter's are damaged, or it was trained to divergence.`,
  );
}
