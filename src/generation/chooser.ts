// SPDX-License-Identifier: Apache-2.0
/** A row's way from logits to the next token: what it has already said, then chance or none. */
import { createRandom, randomStreams } from '../random.ts';
import { type GenerateOptions, randomSeed } from './options.ts';
import { minNewTokens, noRepeatNgram, type Processor, repetitionPenalty } from './processors.ts';
import { checkNumbers, greedy, keepMinP, keepTopK, keepTopP, sample, scaleByTemperature } from './sampling.ts';

/**
 * Chooses a token id from the logits [vocab_size] after a row's last position.
 * @throws UserError when a logit is not a number, or the options forbid every token
 */
export type TokenChooser = (logits: Float32Array) => number;

/**
 * The chooser for one row of a batch. Rows draw from random streams of their own, so that a row's tokens do not depend on
 * how many other rows there are.
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
  const random = createRandom({ seed, stream: randomStreams.sampling, substream: row });
  return (logits) => {
    checkNumbers(logits);
    const scores = processors.length > 0 ? logits.slice() : logits;
    for (const processor of processors) processor.process(scores);
    const id = doSample
      ? sample(keepMinP(keepTopP(keepTopK(scaleByTemperature(scores, temperature), topK), topP), minP), random)
      : greedy(scores);
    for (const processor of processors) processor.push(id);
    return id;
  };
}

/** Whether every choice is the largest logit, whatever the row has said. */
export function takesLikeliest(options: GenerateOptions): boolean {
  return !options.doSample && rowProcessors(options, [], []).length === 0;
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
