// SPDX-License-Identifier: Apache-2.0
/** What a row has already said changes its scores: transformers' logits processors of the same names (generation/logits_process.py). */

/** Changes scores [vocab_size] in place. */
export interface Processor {
  process(scores: Float32Array): void;
  /** Takes the next id of the row, of the prompt or chosen. */
  push(id: number): void;
}

/** Divides the score of every token of the row by `penalty` where it is positive, multiplies where not. */
export function repetitionPenalty(penalty: number): Processor {
  const seen = new Set<number>();
  return {
    push: (id) => seen.add(id),
    process(scores) {
      for (const id of seen) {
        const score = scores[id] as number;
        scores[id] = score < 0 ? score * penalty : score / penalty;
      }
    },
  };
}

/** Forbids every token that would repeat `size` tokens of the row in the same order. */
export function noRepeatNgram(size: number): Processor {
  const followers = new Map<string, number[]>();
  const last: number[] = [];
  return {
    push(id) {
      if (last.length === size - 1) {
        const key = last.join();
        const ids = followers.get(key);
        if (ids) ids.push(id);
        else followers.set(key, [id]);
      }
      last.push(id);
      if (last.length === size) last.shift();
    },
    process(scores) {
      if (last.length < size - 1) return;
      for (const id of followers.get(last.join()) ?? []) scores[id] = Number.NEGATIVE_INFINITY;
    },
  };
}

/** Forbids the end of the text until `count` tokens were chosen. @param promptLength ids that come first and do not count */
export function minNewTokens(count: number, promptLength: number, eosTokenIds: Iterable<number>): Processor {
  let length = -promptLength;
  return {
    push() {
      length += 1;
    },
    process(scores) {
      if (length >= count) return;
      for (const id of eosTokenIds) if (id < scores.length) scores[id] = Number.NEGATIVE_INFINITY;
    },
  };
}
