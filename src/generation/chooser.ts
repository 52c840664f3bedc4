// SPDX-License-Identifier: Apache-2.0
/** A row's way from logits to the next token: what it has already said, then chance or none. */
import type { TokenDraw } from '../backends/token_choice.ts';
import { createRandom, randomStreams } from '../random.ts';
import { type GenerateOptions, randomSeed } from './options.ts';
import { minNewTokens, noRepeatNgram, type Processor, repetitionPenalty } from './processors.ts';
import { checkNumbers, greedy, keepMinP, keepTopK, keepTopP, sample, scaleByTemperature } from './sampling.ts';

/** Chooses the tokens of one row of a batch, one after the other. */
export interface TokenChooser {
  /** Index in the batch, from 0. */
  readonly row: number;
  /** How many were chosen, which is also the number of the next draw. */
  readonly position: number;
  /** The ids of the row, prompt included. */
  readonly seen: ReadonlySet<number>;
  /**
   * The id that comes after the logits [vocab_size]; it is not taken yet.
   * @throws UserError when a logit is not a number, or the options forbid every token
   */
  choose(logits: Float32Array): number;
  /** Takes the next id of the row, whoever chose it. */
  take(id: number): void;
}

/**
 * Rows draw from random streams of their own, and each position has its number, so that a row's tokens depend neither on how many
 * other rows there are nor on where they are chosen.
 *
 * @param options checked
 * @param row index in the batch, from 0
 * @param prompt the ids before the first choice
 */
export function tokenChooser(
  options: GenerateOptions,
  row: number,
  prompt: readonly number[] = [],
  eosTokenIds: Iterable<number> = [],
): TokenChooser {
  const { doSample = false, temperature = 1, topK = 50, topP = 1, minP = 0, seed = randomSeed() } = options;
  const processors = rowProcessors(options, prompt, eosTokenIds);
  const seen = new Set(prompt);
  let position = 0;
  return {
    row,
    seen,
    get position() {
      return position;
    },
    choose(logits) {
      checkNumbers(logits);
      const scores = processors.length > 0 ? logits.slice() : logits;
      for (const processor of processors) processor.process(scores);
      if (!doSample) return greedy(scores);
      const random = createRandom({ seed, stream: randomStreams.sampling, substream: row, position });
      return sample(keepMinP(keepTopP(keepTopK(scaleByTemperature(scores, temperature), topK), topP), minP), random);
    },
    take(id) {
      position += 1;
      seen.add(id);
      for (const processor of processors) processor.push(id);
    },
  };
}

/** How a device chooses in place of the choosers. */
export type DeviceChoice = 'likeliest' | TokenDraw;

/**
 * What a device must do for these options; undefined where only the host can.
 * @param options checked; where they sample, with a seed
 */
export function deviceChoice(options: GenerateOptions): DeviceChoice | undefined {
  const { doSample = false, repetitionPenalty = 1, noRepeatNgramSize = 0, minNewTokens = 0 } = options;
  if (noRepeatNgramSize > 0 || minNewTokens > 0) return undefined;
  if (!doSample && repetitionPenalty === 1) return 'likeliest';
  const { temperature = 1, topK = 50, topP = 1, minP = 0, seed = randomSeed() } = options;
  return { doSample, temperature, topK, topP, minP, repetitionPenalty, seed, stream: randomStreams.sampling };
}

/** What the options ask of a row's scores before a choice, in transformers' order; the prompt is taken. */
export function rowProcessors(
  options: GenerateOptions,
  prompt: readonly number[],
  eosTokenIds: Iterable<number>,
): Processor[] {
  const processors: Processor[] = [];
  const { repetitionPenalty: penalty = 1, noRepeatNgramSize: size = 0, minNewTokens: least = 0 } = options;
  if (penalty !== 1) processors.push(repetitionPenalty(penalty));
  if (size > 0) processors.push(noRepeatNgram(size));
  if (least > 0) processors.push(minNewTokens(least, prompt.length, eosTokenIds));
  for (const processor of processors) for (const id of prompt) processor.push(id);
  return processors;
}
