// SPDX-License-Identifier: Apache-2.0
/** The text of a row as its tokens come, up to a stop string. */

/** What of a tokenizer it takes. */
export interface TextDecoder {
  /** Gives the text of ids that come one by one, in whole characters. */
  streamDecoder(options: { skipSpecialTokens: boolean }): { push(id: number): string; end(): string };
  tokenToId(token: string): number | undefined;
}

export interface RowText {
  /** Takes the next id; returns the text that is certain now, possibly '', and whether a stop string has come. */
  push(id: number): { text: string; isStopped: boolean };
  /** What is left when the row ends without a stop string. */
  end(): string;
}

/** Ids of the prompt that the decoder sees, so that a first token decodes as a later one: more than a character can have. */
const CONTEXT = 16;

/**
 * @param prompt what stands before the text, which it may decide how to begin
 * @param stopStrings none of them, nor what follows it, is in the text, wherever the tokens divide it. One that is a special
 *   token of the vocabulary is found as that token.
 */
export function rowText(tokenizer: TextDecoder, prompt: readonly number[], stopStrings: readonly string[]): RowText {
  const decoder = tokenizer.streamDecoder({ skipSpecialTokens: true });
  for (const id of prompt.slice(-CONTEXT)) decoder.push(id);
  const stopIds = new Set(stopStrings.map((text) => tokenizer.tokenToId(text)));
  let held = '';
  return {
    push(id) {
      if (stopIds.has(id)) return { text: held, isStopped: true };
      held += decoder.push(id);
      const stop = firstStop(held, stopStrings);
      if (stop !== -1) return { text: held.slice(0, stop), isStopped: true };
      const certain = held.length - heldBack(held, stopStrings);
      const text = held.slice(0, certain);
      held = held.slice(certain);
      return { text, isStopped: false };
    },
    end: () => held + decoder.end(),
  };
}

/** Where the first stop string begins; -1 when there is none. */
function firstStop(text: string, stopStrings: readonly string[]): number {
  const places = stopStrings.map((stop) => text.indexOf(stop)).filter((place) => place !== -1);
  return places.length > 0 ? Math.min(...places) : -1;
}

/** Length of the longest end of the text that a stop string may begin with. */
function heldBack(text: string, stopStrings: readonly string[]): number {
  const ends = stopStrings.map((stop) => {
    let length = Math.min(stop.length - 1, text.length);
    while (length > 0 && !text.endsWith(stop.slice(0, length))) length--;
    return length;
  });
  return Math.max(0, ...ends);
}
