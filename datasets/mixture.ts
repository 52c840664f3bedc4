// SPDX-License-Identifier: Apache-2.0
/** Several tokenized datasets as one, each as often as its weight says. */
import { createRandom, randomStreams, shuffle } from '../src/random.ts';
import { type SequenceList, tokenCounts } from './sequences.ts';

export interface MixturePart {
  examples: SequenceList;
  /** How often each example is in the mixture: 2 twice, 0.5 one of two, picked by the seed. */
  weight: number;
}

/**
 * Mixes lists. A part of n examples with weight w gives round(n w): each floor(w) times, and of a permutation by (seed, part)
 * the first ones once more. The mixture's order is a permutation by the seed.
 */
export function mixSequences(parts: readonly MixturePart[], seed: number): SequenceList {
  const picked = parts.map(({ examples, weight }, part) => pick(examples.length, weight, seed, part));
  const length = picked.reduce((sum, indices) => sum + indices.length, 0);
  const partOf = new Int32Array(length);
  const indexOf = new Int32Array(length);
  const order = permutation(length, seed, parts.length);
  let position = 0;
  for (const [part, indices] of picked.entries()) {
    for (const index of indices) {
      const place = order[position++] as number;
      partOf[place] = part;
      indexOf[place] = index;
    }
  }
  const counts = parts.map(({ examples }) => tokenCounts(examples));
  return {
    length,
    at: (index) => parts[partOf[index] ?? -1]?.examples.at(indexOf[index] as number),
    tokenCounts: Int32Array.from(partOf, (part, index) => counts[part]?.[indexOf[index] as number] ?? 0),
  };
}

function pick(n: number, weight: number, seed: number, part: number): Uint32Array {
  const order = permutation(n, seed, part);
  const all = Uint32Array.from({ length: Math.round(n * weight) }, (_, index) => order[index % n] as number);
  return all.sort();
}

function permutation(n: number, seed: number, substream: number): Uint32Array {
  const order = Uint32Array.from({ length: n }, (_, index) => index);
  shuffle(order, createRandom({ seed, stream: randomStreams.mixture, substream }));
  return order;
}
