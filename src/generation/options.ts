// SPDX-License-Identifier: Apache-2.0
/** What a generation can be asked for: names, defaults and ranges as in GenerationConfig of transformers, camelCased. */
import { ConfigError } from '../errors.ts';
import type { MambaForCausalLM } from '../model/causal_lm.ts';
import type { GenerationState } from './state.ts';
import type { TextDecoder } from './text.ts';

export interface SamplingOptions {
  /** Draw from the distribution (true) or take the likeliest token (false). Default false. */
  doSample?: boolean;
  /** Logits are divided by it: below 1 sharper, above 1 flatter. Above 0; default 1. Only with `doSample`. */
  temperature?: number;
  /** Draw from the `topK` likeliest tokens; 0 is all. Default 50. Only with `doSample`. */
  topK?: number;
  /** Draw from the fewest likeliest tokens whose probabilities sum to at least this; 1 is all. In [0, 1], default 1. Only with `doSample`. */
  topP?: number;
  /** Draw from the tokens at least this many times as likely as the likeliest; 0 is all. In [0, 1], default 0. Only with `doSample`. */
  minP?: number;
  /** Same seed, same tokens. An integer in [0, 2^53); by default a new one each time. Only with `doSample`. */
  seed?: number;
}

export interface GenerateOptions extends SamplingOptions {
  /** Most tokens to add to each prompt; default 20. 0 reads the prompts alone. */
  maxNewTokens?: number;
  /** A row does not end with an end-of-text id before this many tokens; default 0. Stop strings end it all the same. */
  minNewTokens?: number;
  /** A row ends with this id, or one of these. null: never. Default generation_config.json's, else the model config's. */
  eosTokenId?: number | readonly number[] | null;
  /**
   * Put before the shorter prompts of a batch and after rows that have ended, where the model does not see it. Default the
   * model's, else its end-of-text id, else 0. It is not in the result.
   */
  padTokenId?: number;
  /** A row ends when its text, without the prompt, has one of these; needs `tokenizer`. Its ids are those up to the end of it. */
  stopStrings?: readonly string[];
  /** Gives each row's text: see {@link GeneratedToken.text}. */
  tokenizer?: TextDecoder;
  /**
   * Divides the logits of tokens that the row has, prompt included, where they are positive, and multiplies them where not.
   * Above 0; default 1. Padding does not count.
   */
  repetitionPenalty?: number;
  /** No sequence of this many tokens comes twice in a row, prompt included; 0, the default: any may. */
  noRepeatNgramSize?: number;
  /** Continuations of each prompt, rows one after the other; default 1. More than one only with `doSample`. */
  numReturnSequences?: number;
  /** Every prompt continues the text of this state, which stays the caller's; a prompt may then be empty. */
  state?: GenerationState;
  /** Called with each new token of a row as soon as it is chosen. */
  onToken?: (row: number, id: number) => void;
  /** Ends the generation with the signal's reason as the error. */
  signal?: AbortSignal;
}

/** Options with what the model decides filled in. */
export interface ResolvedOptions {
  maxNewTokens: number;
  eosTokenIds: ReadonlySet<number>;
  padTokenId: number;
  samples: number;
}

/** A seed that nobody chose, in [0, 2^32). */
export function randomSeed(): number {
  return Math.floor(Math.random() * 2 ** 32);
}

/**
 * @throws ConfigError naming every option whose value is not what it may be, or that nothing would use
 */
export function resolveOptions(model: MambaForCausalLM, options: GenerateOptions): ResolvedOptions {
  checkOptions(options);
  const { config, generationConfig = {} } = model;
  const eos =
    options.eosTokenId === undefined ? (generationConfig.eos_token_id ?? config.eosTokenId) : options.eosTokenId;
  const eosTokenIds = new Set([eos].flat().filter((id): id is number => typeof id === 'number'));
  const [firstEos = 0] = eosTokenIds;
  return {
    maxNewTokens: options.maxNewTokens ?? 20,
    eosTokenIds,
    padTokenId: options.padTokenId ?? config.padTokenId ?? firstEos,
    samples: options.numReturnSequences ?? 1,
  };
}

/**
 * Checks options without using them.
 * @throws ConfigError naming every option whose value is not what it may be, or that nothing would use
 */
export function checkOptions(options: GenerateOptions): void {
  const { doSample = false, eosTokenId } = options;
  const faults: string[] = [];
  const check = (name: keyof GenerateOptions, isValid: (value: number) => boolean, expected: string) => {
    const value = options[name];
    if (value === undefined) return;
    if (typeof value !== 'number' || !isValid(value)) faults.push(`${name} is ${value}; expected ${expected}`);
  };
  const onlySampling = (...[name, isValid, expected]: Parameters<typeof check>) => {
    if (options[name] === undefined) return;
    if (doSample) check(name, isValid, expected);
    else faults.push(`${name} is ${options[name]}, but without sampling (doSample) nothing uses it`);
  };
  const isWhole = (lowest: number) => (value: number) => Number.isSafeInteger(value) && value >= lowest;
  const isFraction = (value: number) => value >= 0 && value <= 1;
  const isPositive = (value: number) => value > 0 && value < Number.POSITIVE_INFINITY;

  check('maxNewTokens', isWhole(0), 'a whole number from 0');
  check('minNewTokens', isWhole(0), 'a whole number from 0');
  check('repetitionPenalty', isPositive, 'a number above 0');
  check('noRepeatNgramSize', isWhole(0), 'a whole number from 1, or 0 for none');
  check('numReturnSequences', isWhole(1), 'a whole number from 1');
  check('padTokenId', isWhole(0), 'a token id');
  onlySampling(
    'temperature',
    isPositive,
    'a number above 0 (the likeliest token without chance is greedy choice, without sampling)',
  );
  onlySampling('topK', isWhole(0), 'a whole number from 1, or 0 for all');
  onlySampling('topP', isFraction, 'a number from 0 to 1');
  onlySampling('minP', isFraction, 'a number from 0 to 1');
  onlySampling('seed', isWhole(0), 'a whole number from 0 to 2^53 - 1');
  const { minNewTokens = 0, maxNewTokens = 20, numReturnSequences = 1, stopStrings, tokenizer } = options;
  const badEos = [eosTokenId ?? []].flat().find((id) => !isWhole(0)(id));
  if (badEos !== undefined) faults.push(`eosTokenId is ${badEos}; expected a token id`);
  if (minNewTokens > maxNewTokens)
    faults.push(`minNewTokens is ${minNewTokens}, more than maxNewTokens, ${maxNewTokens}`);
  if (numReturnSequences > 1 && !doSample) {
    faults.push(`numReturnSequences is ${numReturnSequences}, but without sampling (doSample) all would be equal`);
  }
  if (stopStrings?.includes('')) faults.push('stopStrings has an empty text, which every text has');
  if (stopStrings && stopStrings.length > 0 && !tokenizer) {
    faults.push('stopStrings need the tokenizer that gives the text they are found in; expected the option tokenizer');
  }
  if (faults.length > 0) throw new ConfigError(`generation: ${faults.join('; ')}.`);
}
