// SPDX-License-Identifier: Apache-2.0
/**
 * Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3",
 * SC11). A number depends on (seed, stream, substream, position) alone, so that saving a generator is saving four numbers.
 */
import { UserError } from './errors.ts';

/** Stream numbers in use. What draws from one stream can never change what another gives. */
export const randomStreams = {
  /** Order of the training records; the substream is the epoch. */
  shuffle: 1,
  /** Fresh model and adapter parameters. */
  init: 2,
  /** Dropout masks. */
  dropout: 3,
  /** Sampling in generation. */
  sampling: 4,
  /** Which values of adapters are kept when they are combined; the substream is the tensor. */
  pruning: 5,
  /** Units that a bootstrap draws. */
  bootstrap: 12,
  /** Noise on the embeddings; the substream is the batch. */
  neftune: 13,
  /** Order of length-grouped batches; the substream is the epoch. */
  batchOrder: 10,
  /** Choice and order of mixed data sources. */
  mixture: 11,
} as const;

/** Where a generator stands; plain JSON. */
export interface RandomState {
  /** Integer in [0, 2^53): the Philox key. */
  seed: number;
  /** Integer in [0, 2^32), one of `randomStreams`: counter word 3. */
  stream: number;
  /** Integer in [0, 2^32), such as an epoch: counter word 2. */
  substream: number;
  /** Count of 32-bit words drawn so far, in [0, 2^53). */
  position: number;
}

export interface Random {
  /** The next 32-bit word. */
  uint32(): number;
  /** Uniform in [0, 1), a multiple of 2^-32; one word. */
  uniform(): number;
  /** Standard normal by Box and Muller (the cosine branch); two words. */
  normal(): number;
  /** Uniform integer in [0, n), without bias; `n` in [1, 2^32]. One word, rarely more. */
  below(n: number): number;
  /** Where the generator stands: `createRandom(state())` continues it. */
  state(): RandomState;
}

/**
 * A generator at a given place of a given stream.
 *
 * @param state `seed` is required; `stream`, `substream` and `position` default to 0.
 * @throws UserError when a number is not an integer in its range.
 */
export function createRandom(state: Pick<RandomState, 'seed'> & Partial<RandomState>): Random {
  const seed = checkInteger('seed', state.seed, 2 ** 53);
  const stream = checkInteger('stream', state.stream ?? 0, 2 ** 32);
  const substream = checkInteger('substream', state.substream ?? 0, 2 ** 32);
  let position = checkInteger('position', state.position ?? 0, 2 ** 53);

  const key = [seed >>> 0, Math.floor(seed / 2 ** 32)] as const;
  let block: PhiloxBlock = [0, 0, 0, 0];
  let blockIndex = -1;

  const uint32 = (): number => {
    const index = Math.floor(position / 4);
    if (index !== blockIndex) {
      block = philox4x32([index >>> 0, Math.floor(index / 2 ** 32), substream, stream], key);
      blockIndex = index;
    }
    const word = block[(position % 4) as 0 | 1 | 2 | 3];
    position += 1;
    return word;
  };

  return {
    uint32,
    uniform: () => uint32() * 2 ** -32,
    normal: () => {
      const radius = Math.sqrt(-2 * Math.log((uint32() + 1) * 2 ** -32));
      return radius * Math.cos(2 * Math.PI * (uint32() * 2 ** -32));
    },
    below: (n) => {
      const limit = 2 ** 32 - (2 ** 32 % n);
      let word = uint32();
      while (word >= limit) word = uint32();
      return word % n;
    },
    state: () => ({ seed, stream, substream, position }),
  };
}

/** Four 32-bit words. */
export type PhiloxBlock = readonly [number, number, number, number];

/**
 * Philox4x32 with 10 rounds: a bijection of the 128-bit counter chosen by the 64-bit key.
 *
 * @param counter four uint32, least significant first.
 * @param key two uint32, least significant first.
 */
export function philox4x32(counter: PhiloxBlock, key: readonly [number, number]): PhiloxBlock {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const low0 = Math.imul(c0, 0xd2511f53) >>> 0;
    const high0 = multiplyHigh(c0, 0xd2511f53);
    const low1 = Math.imul(c2, 0xcd9e8d57) >>> 0;
    const high1 = multiplyHigh(c2, 0xcd9e8d57);
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0;
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** Upper 32 bits of the 64-bit product of two uint32. Sums of 16-bit products stay exact in doubles. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + (Math.imul(aLow, bLow) >>> 16);
  const cross = aLow * bHigh + (middle & 0xffff);
  return aHigh * bHigh + ((middle / 0x10000) | 0) + ((cross / 0x10000) | 0);
}

function checkInteger(name: string, value: number, limit: number): number {
  if (!Number.isInteger(value) || value < 0 || value >= limit) {
    throw new UserError(`random ${name}: found ${value}; expected an integer in [0, 2^${Math.log2(limit)})`);
  }
  return value;
}

/** Shuffles by Fisher and Yates, in place. */
export function shuffle<T>(items: { length: number; [index: number]: T }, random: Random): void {
  for (let last = items.length - 1; last > 0; last--) {
    const other = random.below(last + 1);
    const moved = items[last] as T;
    items[last] = items[other] as T;
    items[other] = moved;
  }
}
