// SPDX-License-Identifier: Apache-2.0
/**
 * Autoregressive generation with carried state: the prompt goes through the model once, then each token alone, at a cost and a
 * memory that do not depend on its position. Answers to GenerationMixin.generate of transformers.
 */
import { setImmediate } from 'node:timers/promises';
import type { MambaForCausalLM } from '../model/causal_lm.ts';
import { deviceChoice, type TokenChooser, tokenChooser } from './chooser.ts';
import { type GenerateOptions, randomSeed, resolveOptions } from './options.ts';
import { checkPrompts, readPrompts } from './prompts.ts';
import { type RowText, rowText } from './text.ts';

export interface GeneratedToken {
  /** Index of the continuation: that of the prompt times `numReturnSequences`, plus that of the sample. */
  row: number;
  id: number;
  /**
   * With `tokenizer`: text of the row that is certain now, possibly ''. All of a row together is its text without special
   * tokens, up to a stop string.
   */
  text?: string;
  /** On the row's last token, why it is: an end-of-text id, a stop string, or `maxNewTokens` reached. */
  finishReason?: 'eos' | 'stop' | 'length';
}

/**
 * Continues prompts.
 *
 * @param inputIds one prompt a row, each with at least one id; of any lengths
 * @returns each prompt with its continuation, which ends with the end-of-text id where there was one, and before what follows a
 *   stop string; with `numReturnSequences` that many for each prompt. Rows are not padded (transformers pads them to one length).
 * @throws ConfigError when an option is not what it may be
 * @throws UserError when an id is outside the vocabulary, or the model gives what is not a number
 */
export async function generate(
  model: MambaForCausalLM,
  inputIds: readonly (readonly number[])[],
  options: GenerateOptions = {},
): Promise<number[][]> {
  const samples = options.numReturnSequences ?? 1;
  const rows = inputIds.flatMap((prompt) => Array.from({ length: samples }, () => [...prompt]));
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
  const { maxNewTokens, eosTokenIds, padTokenId, samples } = resolveOptions(model, options);
  const { onToken, signal, state } = options;
  checkPrompts(inputIds, state !== undefined);
  const seed = options.doSample ? (options.seed ?? randomSeed()) : undefined;
  let rows = inputIds.flatMap((prompt, index) =>
    Array.from({ length: samples }, (_, sample) =>
      startRow(index * samples + sample, [...(state?.inputIds ?? []), ...prompt], { ...options, seed }, eosTokenIds),
    ),
  );
  if (maxNewTokens === 0) return;

  const read = await readPrompts(model, inputIds, { state, padTokenId, signal });
  const { decoder } = read;
  try {
    let logits = read.logits;
    const { vocabSize } = model.config;
    const logitsOf = (row: number) => logits.subarray(row * vocabSize, (row + 1) * vocabSize);
    const choose = ({ chooser }: Row, logitsRow: number): number => {
      const id = chooser.choose(logitsOf(logitsRow));
      chooser.take(id);
      return id;
    };
    let next = rows.map((row) => choose(row, Math.floor(row.index / samples)));
    if (samples > 1) decoder.selectRows(rows.map((row) => Math.floor(row.index / samples)));
    const choice = deviceChoice({ ...options, seed });
    /** Choices that the decoder has run ahead to, one array a position. */
    let ahead: Int32Array[] = [];
    for (let count = 1; ; count++) {
      for (const [i, row] of rows.entries()) {
        if (row.hasEnded) continue;
        const token = takeToken(row, next[i] as number, count === maxNewTokens, eosTokenIds);
        onToken?.(row.index, token.id);
        yield token;
      }
      const active = rows.flatMap((row, i) => (row.hasEnded ? [] : [i]));
      if (active.length === 0) return;
      if (active.length <= rows.length / 2) {
        decoder.selectRows(active);
        rows = active.map((i) => rows[i] as Row);
        next = active.map((i) => next[i] as number);
        ahead = ahead.map((choices) => Int32Array.from(active, (i) => choices[i] as number));
      }
      await setImmediate();
      signal?.throwIfAborted();
      if (choice && decoder.runAhead) {
        const choosers = rows.map(({ chooser }) => chooser);
        if (ahead.length === 0) ahead = await decoder.runAhead(next, maxNewTokens - count, choosers, choice);
        next = [...(ahead.shift() as Int32Array)];
        for (const [i, chooser] of choosers.entries()) chooser.take(next[i] as number);
      } else {
        logits = await decoder.step(next);
        next = rows.map((row, i) => (row.hasEnded ? padTokenId : choose(row, i)));
      }
    }
  } finally {
    decoder.dispose();
  }
}

interface Row {
  /** Of the continuation. */
  index: number;
  chooser: TokenChooser;
  text: RowText | undefined;
  hasEnded: boolean;
}

function startRow(
  index: number,
  prompt: readonly number[],
  options: GenerateOptions,
  eosTokenIds: ReadonlySet<number>,
): Row {
  const { tokenizer, stopStrings = [] } = options;
  return {
    index,
    chooser: tokenChooser(options, index, prompt, eosTokenIds),
    text: tokenizer && rowText(tokenizer, prompt, stopStrings),
    hasEnded: false,
  };
}

function takeToken(row: Row, id: number, isLast: boolean, eosTokenIds: ReadonlySet<number>): GeneratedToken {
  const said = row.text?.push(id);
  const finishReason = eosTokenIds.has(id) ? 'eos' : said?.isStopped ? 'stop' : isLast ? 'length' : undefined;
  row.hasEnded = finishReason !== undefined;
  const rest = finishReason && !said?.isStopped ? row.text?.end() : '';
  return {
    row: row.index,
    id,
    ...(said && { text: `${said.text}${rest}` }),
    ...(finishReason && { finishReason }),
  };
}
