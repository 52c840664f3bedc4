// SPDX-License-Identifier: Apache-2.0
/** Prompts through the model: padded to one length, in pieces of bounded memory. */
import { setImmediate } from 'node:timers/promises';
import { ConfigError } from '../errors.ts';
import type { MambaForCausalLM } from '../model/causal_lm.ts';
import { createDecoder, type Decoder, joinStates } from './decoder.ts';
import type { GenerationState } from './state.ts';

/** Most positions of one forward, of all rows together: bounds the memory of its activations. */
const PIECE_POSITIONS = 1024;
export interface ReadOptions {
  /** Default the beginning of a text. */
  state?: GenerationState | undefined;
  padTokenId?: number;
  signal?: AbortSignal | undefined;
}

export interface ReadPrompts {
  /** Stands after the prompts; the caller's to dispose of. */
  decoder: Decoder;
  /** After each prompt: [batch * vocab_size]. */
  logits: Float32Array;
}

/** @throws ConfigError when there are no prompts, or one is empty and continues nothing */
export function checkPrompts(prompts: readonly (readonly number[])[], continuesState: boolean): void {
  if (prompts.length === 0) throw new ConfigError('generation: found no prompts; expected at least one.');
  const empty = prompts.findIndex((row) => row.length === 0);
  if (empty !== -1 && !continuesState) {
    throw new ConfigError(
      `generation: prompt ${empty} has no ids; expected at least one, such as the begin- or end-of-text id.`,
    );
  }
}

/**
 * Runs every prompt, each after the state where there is one.
 * @throws UserError when an id is outside the vocabulary
 * @throws the signal's reason when it is aborted
 */
export async function readPrompts(
  model: MambaForCausalLM,
  prompts: readonly (readonly number[])[],
  options: ReadOptions = {},
): Promise<ReadPrompts> {
  const { state } = options;
  options.signal?.throwIfAborted();
  const [first] = prompts;
  const isEven = prompts.every((row) => row.length === first?.length);
  // Padding before a prompt would come between it and the state.
  if (state && !isEven) return readOneByOne(model, prompts, options);
  const decoder = createDecoder(model, state?.cache);
  try {
    if (state && prompts.length > 1) decoder.selectRows(prompts.map(() => 0));
    const logits = await readTogether(decoder, prompts, options);
    return { decoder, logits };
  } catch (error) {
    decoder.dispose();
    throw error;
  }
}

async function readTogether(
  decoder: Decoder,
  prompts: readonly (readonly number[])[],
  { state, padTokenId = 0, signal }: ReadOptions,
): Promise<Float32Array> {
  const longest = Math.max(...prompts.map((row) => row.length));
  if (state && longest === 0) return repeated(state.logits, prompts.length);
  const piece = Math.max(decoder.leastPositions(prompts.length), Math.floor(PIECE_POSITIONS / prompts.length));
  // The first piece takes what does not fill one, and the padding.
  const firstPiece = longest % piece || piece;
  const least = state ? firstPiece : Math.max(firstPiece, decoder.leastPositions(prompts.length));
  const seqlen = longest - firstPiece + least;
  const fill = (row: readonly number[], value: number) => new Array<number>(seqlen - row.length).fill(value);
  const ids = prompts.map((row) => [...fill(row, padTokenId), ...row]);
  const mask = prompts.map((row) => [...fill(row, 0), ...row.map(() => 1)]);
  for (let start = 0, end = least; ; start = end, end += piece) {
    const cut = (rows: number[][]) => rows.map((row) => row.slice(start, end));
    const isPadded = prompts.some((row) => start < seqlen - row.length);
    const logits = await decoder.prefill(cut(ids), isPadded ? cut(mask) : undefined);
    await setImmediate();
    signal?.throwIfAborted();
    if (end >= seqlen) return logits;
  }
}

async function readOneByOne(
  model: MambaForCausalLM,
  prompts: readonly (readonly number[])[],
  options: ReadOptions,
): Promise<ReadPrompts> {
  const logits: Float32Array[] = [];
  const states = [];
  try {
    for (const prompt of prompts) {
      const read = await readPrompts(model, [prompt], options);
      logits.push(read.logits.slice());
      states.push(read.decoder.copyState());
      read.decoder.dispose();
    }
    const joined = joinStates(states);
    states.push(joined);
    return { decoder: createDecoder(model, joined), logits: concatenated(logits) };
  } finally {
    for (const state of states) state.dispose();
  }
}

function repeated(values: Float32Array, times: number): Float32Array {
  return concatenated(Array.from({ length: times }, () => values));
}

function concatenated(parts: readonly Float32Array[]): Float32Array {
  const result = new Float32Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}
