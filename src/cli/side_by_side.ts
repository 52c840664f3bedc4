// SPDX-License-Identifier: Apache-2.0
/** Texts in two columns. */

/** Two texts, and what they have in common as a heading over both. */
export interface Comparison {
  heading: string;
  left: string;
  right: string;
}

const GAP = ' │ ';

/**
 * Lays texts out in two columns of equal width.
 *
 * @param titles of the columns
 * @param width of the whole, in characters; columns have at least 12
 * @param emphasize marks titles and headings
 * @returns lines without trailing spaces, each at most `width` long
 */
export function sideBySide(
  titles: readonly [string, string],
  rows: readonly Comparison[],
  width: number,
  emphasize: (text: string) => string = (text) => text,
): string[] {
  const column = Math.max(12, Math.floor((width - GAP.length) / 2));
  const rule = `${'─'.repeat(column + 1)}┼${'─'.repeat(column + 1)}`;
  const columns = (left: string, right: string, mark: (text: string) => string) => {
    const [leftLines, rightLines] = [wrapText(left, column), wrapText(right, column)];
    const height = Math.max(leftLines.length, rightLines.length);
    return Array.from({ length: height }, (_, line) => {
      const [leftLine = '', rightLine = ''] = [leftLines[line], rightLines[line]];
      return `${mark(leftLine)}${' '.repeat(column - leftLine.length)}${GAP}${mark(rightLine)}`.trimEnd();
    });
  };
  const plain = (text: string) => text;
  const body = rows.flatMap(({ heading, left, right }) => [
    rule,
    ...wrapText(heading, 2 * column + GAP.length).map(emphasize),
    ...columns(left, right, plain),
  ]);
  return [...columns(...titles, emphasize), ...body];
}

/** Breaks a text into lines of at most `width` characters, at spaces where it has some; at least one line. */
export function wrapText(text: string, width: number): string[] {
  const lines = [''];
  for (const word of text.split(/\s+/).filter(Boolean)) {
    const line = lines.at(-1) ?? '';
    const joined = line === '' ? word : `${line} ${word}`;
    if (joined.length <= width) {
      lines[lines.length - 1] = joined;
      continue;
    }
    if (line === '') lines.pop();
    for (let start = 0; start < word.length; start += width) lines.push(word.slice(start, start + width));
  }
  return lines;
}
