// SPDX-License-Identifier: Apache-2.0
/** The work of `mambatune generate`: loads, generates all prompts as one batch, and writes their texts in order. */
import * as tf from '@tensorflow/tfjs-core';
import { ConfigError } from '../errors.ts';
import { type SamplingOptions, stream } from '../generation/index.ts';
import { formatDuration, formatNumber } from '../logging/format.ts';
import { AutoTokenizer, type Tokenizer } from '../tokenizer/tokenizer.ts';
import type { CliContext } from './context.ts';
import { loadModel, type ModelChoice } from './load_model.ts';

export interface GenerateRequest extends ModelChoice {
  /** All of them generate at once; an empty one starts from the begin-of-text token. */
  prompts: readonly string[];
  maxNewTokens: number;
  sampling: SamplingOptions;
  /** Print each piece of text as it comes. */
  live: boolean;
  signal: AbortSignal;
}

/** What --json shows. */
export interface GenerationReport {
  model: string;
  adapter: string | null;
  backend: string;
  /** Of sampling; null when the likeliest tokens were taken. */
  seed: number | null;
  tokensPerSecond: number;
  /** One a prompt, in order. */
  results: Continuation[];
}

/** One prompt and what became of it. */
export interface Continuation {
  prompt: string;
  completion: string;
  promptTokens: number;
  completionTokens: number;
  /** Set when it is complete. */
  finishReason?: 'eos' | 'length';
}

/**
 * Continues prompts, and prints them with their continuations.
 * @throws the signal's reason when it is aborted
 */
export async function generateWith(context: CliContext, request: GenerateRequest): Promise<GenerationReport> {
  const { prompts, maxNewTokens, sampling, live, signal, revision } = request;
  const onMessage = context.logger.info;
  const { model, name } = await loadModel(request, onMessage);
  try {
    const tokenizer = await AutoTokenizer.fromPretrained(name, { revision, onMessage });
    const inputIds = prompts.map((prompt) => encodePrompt(tokenizer, prompt));
    const decoders = inputIds.map((ids) => promptedDecoder(tokenizer, ids));
    const results: Continuation[] = prompts.map((prompt, row) => ({
      prompt,
      completion: '',
      promptTokens: inputIds[row]?.length ?? 0,
      completionTokens: 0,
    }));
    const show = createDisplay(results, context.print);
    if (live) show();

    const start = performance.now();
    for await (const { row, id, finishReason } of stream(model, inputIds, { ...sampling, maxNewTokens, signal })) {
      const result = results[row] as Continuation;
      const decoder = decoders[row] as (typeof decoders)[number];
      result.completion += decoder.push(id) + (finishReason ? decoder.end() : '');
      result.completionTokens += 1;
      if (finishReason) result.finishReason = finishReason;
      if (live) show();
    }
    const seconds = (performance.now() - start) / 1000;
    show();

    const tokens = results.reduce((sum, result) => sum + result.completionTokens, 0);
    const seed = sampling.seed ?? null;
    onMessage(
      `${tokens} tokens in ${formatDuration(seconds)} (${formatNumber(tokens / seconds)} tokens/s)${seed === null ? '' : `, seed ${seed}`}`,
    );
    const adapter = request.adapter ?? null;
    return { model: name, adapter, backend: tf.getBackend(), seed, tokensPerSecond: tokens / seconds, results };
  } finally {
    model.dispose();
  }
}

function encodePrompt(tokenizer: Tokenizer, prompt: string): number[] {
  const ids = tokenizer.encode(prompt);
  if (ids.length > 0) return ids;
  const start = tokenizer.bosTokenId ?? tokenizer.eosTokenId;
  if (start === undefined) throw new ConfigError('the prompt is empty, and the tokenizer has no begin-of-text token.');
  return [start];
}

/** A decoder that stands after the prompt: what a first token decodes to may differ from a later one. */
function promptedDecoder(tokenizer: Tokenizer, ids: readonly number[]) {
  const decoder = tokenizer.streamDecoder({ skipSpecialTokens: true });
  for (const id of ids) decoder.push(id);
  return decoder;
}

/** Writes, each time it is called, what is new: the texts in order, each whole before the next begins. */
function createDisplay(results: readonly Continuation[], print: (text: string) => void): () => void {
  let row = 0;
  let written = 0;
  return () => {
    for (let result = results[row]; result; result = results[row]) {
      const text = `${row === 0 ? '' : '\n'}${result.prompt}${result.completion}${result.finishReason ? '\n' : ''}`;
      if (text.length > written) print(text.slice(written));
      written = text.length;
      if (!result.finishReason) return;
      row += 1;
      written = 0;
    }
  };
}
