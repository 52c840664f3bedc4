// SPDX-License-Identifier: Apache-2.0
/**
 * Autoregressive generation with carried state: the prompt goes through the model once, then each token alone, at a cost and a
 * memory that do not depend on its position. Answers to GenerationMixin.generate of transformers.
 */
import { setImmediate } from 'node:timers/promises';
import { ConfigError } from '../errors.ts';
import type { MambaForCausalLM } from '../model/causal_lm.ts';
import { createDecoder, type Decoder } from './decoder.ts';
import { checkSamplingOptions, randomSeed, type SamplingOptions, tokenChooser } from './sampling.ts';

export interface GenerateOptions extends SamplingOptions {
  /** Most tokens to add to each prompt, from 1; default 20. */
  maxNewTokens?: number;
  /** A row ends with this id, or one of these. null: never. Default generation_config.json's, else the model config's. */
  eosTokenId?: number | readonly number[] | null;
  /**
   * Put before the shorter prompts of a batch and after rows that have ended, where the model does not see it. Default the
   * model's, else its end-of-text id, else 0. It is not in the result.
   */
  padTokenId?: number;
  /** Called with each new token of a row as soon as it is chosen. */
  onToken?: (row: number, id: number) => void;
  /** Ends the generation with the signal's reason as the error. */
  signal?: AbortSignal;
}

export interface GeneratedToken {
  /** Index of the prompt. */
  row: number;
  id: number;
  /** On the row's last token, why it is: an end-of-text id, or `maxNewTokens` reached. */
  finishReason?: 'eos' | 'length';
}

/** Most positions of one forward over a prompt, of all rows together: bounds the memory of its activations. */
const PREFILL_POSITIONS = 1024;

/**
 * Continues prompts.
 *
 * @param inputIds one prompt a row, each with at least one id; of any lengths
 * @returns each prompt with its continuation, which ends with the end-of-text id where there was one. Rows are not padded
 *   (transformers pads them to one length).
 * @throws ConfigError when an option is not what it may be
 * @throws UserError when an id is outside the vocabulary, or the model gives what is not a number
 */
export async function generate(
  model: MambaForCausalLM,
  inputIds: readonly (readonly number[])[],
  options: GenerateOptions = {},
): Promise<number[][]> {
  const rows = inputIds.map((prompt) => [...prompt]);
  for await (const { row, id } of stream(model, inputIds, options)) rows[row]?.push(id);
  return rows;
}

/**
 * Continues prompts, token by token: at each position the rows that have not ended give one token each, in their order. Takes
 * and throws what {@link generate} does. Whoever stops early frees everything by leaving the loop.
 */
export async function* stream(
  model: MambaForCausalLM,
  inputIds: readonly (readonly number[])[],
  options: GenerateOptions = {},
): AsyncGenerator<GeneratedToken> {
  const { maxNewTokens = 20, onToken, signal } = options;
  checkOptions(inputIds, options);
  const { eosTokenIds, padTokenId } = endAndPadding(model, options);
  const seed = options.doSample ? (options.seed ?? randomSeed()) : undefined;
  const choosers = inputIds.map((_, row) => tokenChooser({ ...options, seed }, row));
  const hasEnded = inputIds.map(() => false);

  signal?.throwIfAborted();
  const decoder = createDecoder(model);
  try {
    let logits = await prefill(decoder, inputIds, padTokenId, signal);
    for (let count = 1; ; count++) {
      const { vocabSize } = model.config;
      const next = choosers.map((choose, row) =>
        hasEnded[row] ? padTokenId : choose(logits.subarray(row * vocabSize, (row + 1) * vocabSize)),
      );
      for (const [row, id] of next.entries()) {
        if (hasEnded[row]) continue;
        const finishReason = eosTokenIds.has(id) ? 'eos' : count === maxNewTokens ? 'length' : undefined;
        hasEnded[row] = finishReason !== undefined;
        onToken?.(row, id);
        yield { row, id, ...(finishReason && { finishReason }) };
      }
      if (hasEnded.every(Boolean)) return;
      await setImmediate();
      signal?.throwIfAborted();
      logits = await decoder.step(next);
    }
  } finally {
    decoder.dispose();
  }
}

/** Runs the prompts, padded at the left, in pieces. @returns the logits after the last position, row after row */
async function prefill(
  decoder: Decoder,
  inputIds: readonly (readonly number[])[],
  padTokenId: number,
  signal: AbortSignal | undefined,
): Promise<Float32Array> {
  const seqlen = Math.max(...inputIds.map((row) => row.length));
  const isPadded = inputIds.some((row) => row.length < seqlen);
  const fill = (row: readonly number[], value: number) => new Array<number>(seqlen - row.length).fill(value);
  const ids = inputIds.map((row) => [...fill(row, padTokenId), ...row]);
  const mask = inputIds.map((row) => [...fill(row, 0), ...row.map(() => 1)]);

  const piece = Math.max(1, Math.floor(PREFILL_POSITIONS / ids.length));
  for (let start = 0; ; start += piece) {
    const cut = (rows: number[][]) => rows.map((row) => row.slice(start, start + piece));
    const logits = await decoder.prefill(cut(ids), isPadded ? cut(mask) : undefined);
    await setImmediate();
    signal?.throwIfAborted();
    if (start + piece >= seqlen) return logits;
  }
}

function checkOptions(inputIds: readonly (readonly number[])[], options: GenerateOptions): void {
  const { maxNewTokens = 20 } = options;
  checkSamplingOptions(options);
  if (!Number.isSafeInteger(maxNewTokens) || maxNewTokens < 1) {
    throw new ConfigError(`generation: maxNewTokens is ${maxNewTokens}; expected a whole number from 1.`);
  }
  if (inputIds.length === 0) throw new ConfigError('generation: found no prompts; expected at least one.');
  const empty = inputIds.findIndex((row) => row.length === 0);
  if (empty !== -1) {
    throw new ConfigError(
      `generation: prompt ${empty} has no ids; expected at least one, such as the begin- or end-of-text id.`,
    );
  }
}

function endAndPadding(model: MambaForCausalLM, options: GenerateOptions) {
  const { config, generationConfig = {} } = model;
  const eos =
    options.eosTokenId === undefined ? (generationConfig.eos_token_id ?? config.eosTokenId) : options.eosTokenId;
  const eosTokenIds = new Set([eos].flat().filter((id): id is number => typeof id === 'number'));
  const [firstEos = 0] = eosTokenIds;
  return { eosTokenIds, padTokenId: options.padTokenId ?? config.padTokenId ?? firstEos };
}
