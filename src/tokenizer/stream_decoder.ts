// SPDX-License-Identifier: Apache-2.0
/** Text of token ids that come one by one, in whole characters, at a cost that does not grow with what came before. */

export interface StreamDecoder {
  /** Takes the next id; returns the text that is certain now, possibly ''. */
  push(id: number): string;
  /** The rest of the text; the decoder is new again. */
  end(): string;
}

/** What a decoder writes for bytes that are not, or not yet, a character. */
const REPLACEMENT = '\ufffd';
/** An unfinished character has at most 3 bytes, so fewer ids than this; more are bytes that make no character. */
const CONTEXT = 8;

/**
 * @param decode the text of a list of ids; bytes that end in the middle of a character give one U+FFFD at the end
 */
export function createStreamDecoder(decode: (ids: number[]) => string): StreamDecoder {
  // The ids not emitted in full, after one that was (decoders treat the first token of a text differently).
  let window: number[] = [];
  let emitted = 0;
  return {
    push(id) {
      window.push(id);
      const text = decode(window);
      const isComplete = !text.endsWith(REPLACEMENT);
      const stable = isComplete ? text.length : text.length - 1;
      const out = text.slice(emitted, stable);
      const ownLength = isComplete ? decode([id]).length : 0;
      if (ownLength > 0) {
        window = [id];
        emitted = ownLength;
      } else if (isComplete) {
        window.pop();
        emitted = text.length;
      } else if (window.length >= 2 * CONTEXT) {
        window = window.slice(-CONTEXT);
        emitted = decode(window).length - 1;
      } else {
        emitted = Math.max(emitted, stable);
      }
      return out;
    },
    end() {
      const rest = decode(window).slice(emitted);
      window = [];
      emitted = 0;
      return rest;
    },
  };
}
