// SPDX-License-Identifier: Apache-2.0
/** The next tokens of a batch, chosen where the logits lie: on a device of the addon, in place. */
import type { Tensor, Tensor2D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { DeviceBackend } from './device_backend.ts';

/** Where a choice goes. */
export interface TokenChoices {
  /** int32, one element a row: written over with the row's token; 0 where there is none. */
  tokens: Tensor;
  /** int32 [slots, rows]: the token goes into the slot of counts % slots; {@link NOT_A_NUMBER} or {@link NO_TOKEN} where there is none. */
  choices: Tensor;
  /** int32 [rows]: each goes up by one. */
  counts: Tensor;
}

/** In place of a token: a logit is NaN. */
export const NOT_A_NUMBER = -1;
/** In place of a token: no score is above -Infinity. */
export const NO_TOKEN = -2;

/**
 * Takes the first of each row's largest logits. Gives {@link NOT_A_NUMBER} where none is above -Infinity, too.
 * @param logits [rows, vocab_size]
 */
export function chooseLikeliest(logits: Tensor2D, { tokens, choices, counts }: TokenChoices): void {
  const { addon, device, handles } = backendOf(logits, tokens, choices, counts);
  addon.chooseLikeliest(device, ...sizesOf(logits, choices), ...handles);
}

/** How tokens are drawn: the options of a generation (src/generation/options.ts) with nothing left out. */
export interface TokenDraw {
  /** false: the first of the largest after the penalty; of the other numbers only `repetitionPenalty` matters then. */
  doSample: boolean;
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  /** As {@link createRandom} takes them. */
  seed: number;
  stream: number;
}

/** What each row draws with. */
export interface RowDraws {
  /** int32 [rows]: of the random numbers. */
  substreams: Tensor;
  /** int32 [rows]: which number of the substream is next; each goes up by one. */
  positions: Tensor;
  /**
   * int32 [rows, ceil(vocab_size / 32)]: bit t % 32 of word t / 32 is set for each token t that the penalty is for. The choice joins
   * them. Absent: there is none.
   */
  seen?: Tensor | undefined;
}

/**
 * Draws a token for each row: what src/generation/sampling.ts does with the same numbers, up to the rounding of sums (native/include/sample_token.h).
 * @param logits [rows, vocab_size]
 */
export function sampleToken(logits: Tensor2D, draw: TokenDraw, rows: RowDraws, into: TokenChoices): void {
  const { substreams, positions, seen } = rows;
  const { tokens, choices, counts } = into;
  const { addon, device, handles } = backendOf(logits, substreams, positions, seen, tokens, choices, counts);
  const { doSample, temperature, topK, topP, minP, repetitionPenalty, seed, stream } = draw;
  const rules = [doSample, temperature, topK, topP, Math.log(minP), repetitionPenalty, seed, stream];
  addon.sampleToken(device, ...sizesOf(logits, choices), ...rules, ...handles);
}

const sizesOf = (logits: Tensor2D, choices: Tensor) => [...logits.shape, choices.shape[0] as number];

function backendOf(...operands: (Tensor | undefined)[]) {
  const backend = tf.backend();
  if (!(backend instanceof DeviceBackend)) throw new Error(`the backend ${tf.getBackend()} cannot choose tokens`);
  const { addon, device } = backend;
  return { addon, device, handles: operands.map((operand) => backend.handle(operand)) };
}
