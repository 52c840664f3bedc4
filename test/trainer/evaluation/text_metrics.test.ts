// SPDX-License-Identifier: Apache-2.0
/** Text metrics against the figures of sacrebleu 2.6.0 and of rouge_score's definition. */
import { describe, expect, it } from 'vitest';
import { chrf, chrfStatistics, exactMatch, rougeL } from '../../../trainer/evaluation/text_metrics.ts';

/** CHRF().sentence_score(text, references).score of sacrebleu 2.6.0. */
const CHRF_CASES: [text: string, references: string[], score: number][] = [
  ['The quick brown dog jumps on the log.', ['The quick brown fox jumps over the lazy dog'], 52.5324471643681],
  ['', ['nothing was written'], 0],
  ['A thing that is left.', [''], 0],
  ['ab', ['abc', 'ab c'], 63.636363636363626],
  ['naïve café 😀 done', ['naive cafe 😀 done', 'naïve café 😀 gone'], 71.94407444407445],
  ['  spaces   between\twords ', ['spaces between words'], 100],
  ['a man', ['a plan, a canal'], 9.87641815235008],
  ['zzz', ['qqq'], 0],
];

describe('chrF', () => {
  it.each(CHRF_CASES)('of %j against %j', (text, references, score) => {
    expect(chrf(chrfStatistics(text, references))).toBeCloseTo(score, 10);
  });

  it('of a corpus is that of the summed statistics', () => {
    const sums = new Float64Array(18);
    for (const [text, references] of CHRF_CASES) {
      for (const [at, count] of chrfStatistics(text, references).entries()) sums[at] = (sums[at] ?? 0) + count;
    }
    expect(chrf(sums)).toBeCloseTo(51.45099134958593, 10);
  });
});

describe('ROUGE-L', () => {
  /** Longest common subsequences counted by hand: 5 of 8 and 9 words, 2 of 2 and 3, 4 of 4 and 4, 3 of 5 and 3. */
  it.each<[text: string, references: string[], score: number]>([
    ['The quick brown dog jumps on the log.', ['The quick brown fox jumps over the lazy dog'], 10 / 17],
    ['testing two', ['testing one two'], 4 / 5],
    ['Well-kept, 2 words', ['well kept; 2 WORDS!'], 1],
    ['police kill the gunman ended', ['nothing', 'police ended gunman', 'police the gunman'], 3 / 4],
    ['', ['something'], 0],
    ['...', ['something'], 0],
    ['something', ['', '?!'], 0],
    ['a b', ['c d'], 0],
  ])('of %j against %j', (text, references, score) => {
    expect(rougeL(text, references)).toBeCloseTo(score, 12);
  });

  it('takes a text that says the same words often', () => {
    const words = Array.from({ length: 3000 }, (_, at) => (at % 7 === 0 ? 'other' : 'word')).join(' ');
    expect(rougeL(words, [words])).toBe(1);
  });
});

describe('exact match', () => {
  const strict = { ignoreCase: false, ignorePunctuation: false };
  it.each([
    [' Paris\n', ['Paris'], strict, true],
    ['paris', ['Paris'], strict, false],
    ['paris', ['Paris'], { ...strict, ignoreCase: true }, true],
    ['Paris.', ['Paris'], strict, false],
    ['"Paris."', ['London', 'Paris'], { ...strict, ignorePunctuation: true }, true],
    ['Paris, France', ['Paris'], { ignoreCase: true, ignorePunctuation: true }, false],
  ])('of %j with %j, %j', (text, references, options, expected) => {
    expect(exactMatch(text, references, options)).toBe(expected);
  });
});
