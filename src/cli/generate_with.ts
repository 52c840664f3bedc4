// SPDX-License-Identifier: Apache-2.0
/** The work of `mambatune generate`: loads, generates all prompts as one batch, and writes their texts in order. */
import * as tf from '@tensorflow/tfjs-core';
import { ConfigError } from '../errors.ts';
import {
  type GeneratedToken,
  type GenerateOptions,
  type GenerationState,
  loadState,
  readPrompt,
  saveState,
  stream,
} from '../generation/index.ts';
import { formatDuration, formatNumber } from '../logging/format.ts';
import type { MambaForCausalLM } from '../model/causal_lm.ts';
import { AutoTokenizer, type Tokenizer } from '../tokenizer/tokenizer.ts';
import type { CliContext } from './context.ts';
import { loadModel, type ModelChoice } from './load_model.ts';

export interface GenerateRequest extends ModelChoice {
  /** All of them generate at once; an empty one starts from the begin-of-text token, or continues the state. */
  prompts: readonly string[];
  /** Prompts are what a user says to an assistant, told by `system` how to be, in the tokenizer's chat template. */
  chat: { system?: string } | null;
  /** Of the generation; without what is read from the model and the files. */
  options: Omit<GenerateOptions, 'tokenizer' | 'state' | 'signal'>;
  /** File of a state that the prompts continue. */
  fromState?: string;
  /** File for the state after the prompt and its continuation, of which there is one. */
  saveState?: string;
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
  /** In the order of the prompts, and of the samples of each. */
  results: Continuation[];
}

/** One prompt and what became of it. */
export interface Continuation {
  prompt: string;
  completion: string;
  promptTokens: number;
  completionTokens: number;
  /** Set when it is complete. */
  finishReason?: GeneratedToken['finishReason'];
}

/**
 * Continues prompts, and prints them with their continuations.
 * @throws the signal's reason when it is aborted
 */
export async function generateWith(context: CliContext, request: GenerateRequest): Promise<GenerationReport> {
  const { prompts, options, live, revision } = request;
  const onMessage = context.logger.info;
  const { model, name } = await loadModel(request, onMessage);
  try {
    const tokenizer = await AutoTokenizer.fromPretrained(name, { revision, onMessage });
    const encode = promptEncoder(tokenizer, request);
    const inputIds = prompts.map(encode);
    const samples = options.numReturnSequences ?? 1;
    const results: Continuation[] = prompts.flatMap((prompt, row) =>
      Array.from({ length: samples }, () => ({
        prompt,
        completion: '',
        promptTokens: inputIds[row]?.length ?? 0,
        completionTokens: 0,
      })),
    );
    const show = createDisplay(results, request.chat === null, context.print);
    if (live) show();

    const start = performance.now();
    for await (const { row, text, finishReason } of tokensOf(model, tokenizer, inputIds, request)) {
      const result = results[row] as Continuation;
      result.completion += text;
      result.completionTokens += 1;
      if (finishReason) result.finishReason = finishReason;
      if (live) show();
    }
    const seconds = (performance.now() - start) / 1000;
    for (const result of results) result.finishReason ??= 'length'; // of no tokens
    show();

    const tokens = results.reduce((sum, result) => sum + result.completionTokens, 0);
    const seed = options.seed ?? null;
    onMessage(
      `${tokens} tokens in ${formatDuration(seconds)} (${formatNumber(tokens / seconds)} tokens/s)${seed === null ? '' : `, seed ${seed}`}`,
    );
    const adapter = request.adapter ?? null;
    return { model: name, adapter, backend: tf.getBackend(), seed, tokensPerSecond: tokens / seconds, results };
  } finally {
    model.dispose();
  }
}

/** The continuations' tokens, after and before the states that files hold. */
async function* tokensOf(
  model: MambaForCausalLM,
  tokenizer: Tokenizer,
  inputIds: readonly number[][],
  { options, fromState, saveState: file, signal }: GenerateRequest,
): AsyncGenerator<GeneratedToken> {
  const states: GenerationState[] = [];
  const keep = (state: GenerationState) => {
    states.push(state);
    return state;
  };
  try {
    let state = fromState === undefined ? undefined : keep(loadState(fromState, model));
    let prompts = inputIds;
    if (file !== undefined) {
      state = keep(await readPrompt(model, inputIds[0] as number[], { ...(state && { state }), signal }));
      prompts = [[]];
    }
    const ids: number[] = [];
    for await (const token of stream(model, prompts, { ...options, tokenizer, ...(state && { state }), signal })) {
      ids.push(token.id);
      yield token;
    }
    if (file !== undefined && state) {
      saveState(file, ids.length === 0 ? state : keep(await readPrompt(model, ids, { state, signal })), model);
    }
  } finally {
    for (const state of states) state.dispose();
  }
}

function promptEncoder(tokenizer: Tokenizer, { chat, fromState }: GenerateRequest): (prompt: string) => number[] {
  if (chat) {
    const system = chat.system === undefined ? [] : [{ role: 'system', content: chat.system }];
    return (content) => {
      const text = tokenizer.applyChatTemplate([...system, { role: 'user', content }], { addGenerationPrompt: true });
      return tokenizer.encode(text, { addSpecialTokens: false });
    };
  }
  if (fromState !== undefined) return (prompt) => tokenizer.encode(prompt, { addSpecialTokens: false });
  return (prompt) => encodePrompt(tokenizer, prompt);
}

function encodePrompt(tokenizer: Tokenizer, prompt: string): number[] {
  const ids = tokenizer.encode(prompt);
  if (ids.length > 0) return ids;
  const start = tokenizer.bosTokenId ?? tokenizer.eosTokenId;
  if (start === undefined) throw new ConfigError('the prompt is empty, and the tokenizer has no begin-of-text token.');
  return [start];
}

/** Writes, each time it is called, what is new: the texts in order, each whole before the next begins. */
function createDisplay(
  results: readonly Continuation[],
  withPrompts: boolean,
  print: (text: string) => void,
): () => void {
  let row = 0;
  let written = 0;
  return () => {
    for (let result = results[row]; result; result = results[row]) {
      const prompt = withPrompts ? result.prompt : '';
      const text = `${row === 0 ? '' : '\n'}${prompt}${result.completion}${result.finishReason ? '\n' : ''}`;
      if (text.length > written) print(text.slice(written));
      written = text.length;
      if (!result.finishReason) return;
      row += 1;
      written = 0;
    }
  };
}
