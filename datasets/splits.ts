// SPDX-License-Identifier: Apache-2.0
/** Which files of a dataset make a split, by their names, as the Hub reads repositories without a configuration. */

/** Words that name a split in a file or folder name. */
const SPLIT_WORDS: Record<string, string[]> = {
  train: ['train', 'training'],
  validation: ['validation', 'valid', 'val', 'dev'],
  test: ['test', 'testing', 'eval', 'evaluation'],
};

/**
 * The files of one split: those whose name (`train.jsonl`, `data/train-00000-of-00002.jsonl`, `quotes_train.jsonl`) or
 * folder (`train/part1.jsonl`) holds one of the split's words. When no name holds a word of any split, all are `train`.
 *
 * @param paths relative paths with forward slashes.
 * @param split `train`, `validation`, `test`, or any other word.
 * @returns the files in the order of their names; empty when there are none.
 */
export function filesOfSplit(paths: readonly string[], split: string): string[] {
  const sorted = paths.toSorted();
  const words = SPLIT_WORDS[split] ?? [split];
  const named = sorted.filter((path) => holdsWord(path, words));
  if (named.length > 0) return named;
  const allWords = Object.values(SPLIT_WORDS).flat();
  return split === 'train' && !sorted.some((path) => holdsWord(path, allWords)) ? sorted : [];
}

/** Whether a word stands in the path with no letter before or after it. */
function holdsWord(path: string, words: readonly string[]): boolean {
  return words.some((word) => {
    const escaped = word.replace(/\W/g, '\\$&');
    return new RegExp(`(?<![a-z])${escaped}(?![a-z])`, 'i').test(path);
  });
}
