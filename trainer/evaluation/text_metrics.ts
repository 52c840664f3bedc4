// SPDX-License-Identifier: Apache-2.0
/** How near a written text is to reference texts. */
import { l as rougeLcs } from 'js-rouge';

export interface ExactMatchOptions {
  ignoreCase: boolean;
  /** Leave ASCII punctuation out. */
  ignorePunctuation: boolean;
}

/** Whether the text is one of the references, spaces around them aside. */
export function exactMatch(text: string, references: readonly string[], options: ExactMatchOptions): boolean {
  const normalize = (raw: string) => {
    const cased = options.ignoreCase ? raw.toLowerCase() : raw;
    return (options.ignorePunctuation ? cased.replace(/[!-/:-@[-`{-~]/g, '') : cased).trim();
  };
  return references.some((reference) => normalize(reference) === normalize(text));
}

/**
 * ROUGE-L, the F-measure of the longest common subsequence of words, from 0 to 1; of several references the best. Words are what
 * Google's rouge_score takes for them without stemming: runs of a-z and 0-9 in lower case.
 */
export function rougeL(text: string, references: readonly string[]): number {
  const words = (raw: string) => raw.toLowerCase().match(/[a-z0-9]+/g) ?? [];
  if (words(text).length === 0) return 0;
  const scores = references
    .filter((reference) => words(reference).length > 0)
    .map((reference) => rougeLcs(text, reference, { tokenizer: words, segmenter: (raw) => [raw] }));
  return Math.max(0, ...scores);
}

const CHRF_ORDER = 6;
const CHRF_BETA = 2;

/**
 * What chrF (Popović 2015) adds up over texts: for each n from 1 to 6 the character n-grams of the text, of the reference, and those
 * in common; spaces left out. Of several references the one with the best score. As in sacrebleu.
 */
export function chrfStatistics(text: string, references: readonly string[]): number[] {
  const own = ngramsOf(text);
  const candidates = references.map((reference) =>
    ngramsOf(reference).flatMap((theirs, order) => overlap(own[order] as Map<string, number>, theirs)),
  );
  return candidates.reduce((best, next) => (chrf(next) > chrf(best) ? next : best));
}

/** chrF from 0 to 100 of summed statistics: F2 of the mean precision and recall over the orders that both sides have. */
export function chrf(statistics: ArrayLike<number>): number {
  let [precision, recall, orders] = [0, 0, 0];
  for (let order = 0; order < CHRF_ORDER; order++) {
    const [own = 0, theirs = 0, common = 0] = Array.from(
      { length: 3 },
      (_, at) => statistics[3 * order + at] as number,
    );
    if (own === 0 || theirs === 0) continue;
    precision += common / own;
    recall += common / theirs;
    orders += 1;
  }
  if (precision + recall === 0) return 0;
  const weight = CHRF_BETA ** 2;
  return (100 * (1 + weight) * (precision / orders) * (recall / orders)) / ((weight * precision + recall) / orders);
}

/** Counts of the n-grams of each order. */
function ngramsOf(text: string): Map<string, number>[] {
  const characters = [...text.replace(/\s+/g, '')];
  return Array.from({ length: CHRF_ORDER }, (_, at) => {
    const counts = new Map<string, number>();
    for (let start = 0; start + at < characters.length; start++) {
      const ngram = characters.slice(start, start + at + 1).join('');
      counts.set(ngram, (counts.get(ngram) ?? 0) + 1);
    }
    return counts;
  });
}

function overlap(own: ReadonlyMap<string, number>, theirs: ReadonlyMap<string, number>): [number, number, number] {
  let common = 0;
  for (const [ngram, count] of own) common += Math.min(count, theirs.get(ngram) ?? 0);
  const sum = (counts: ReadonlyMap<string, number>) => [...counts.values()].reduce((total, count) => total + count, 0);
  return [theirs.size > 0 ? sum(own) : 0, sum(theirs), common];
}
