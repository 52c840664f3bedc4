// SPDX-License-Identifier: Apache-2.0
/** The two-column table. */
import { describe, expect, test } from 'vitest';
import { sideBySide, wrapText } from '../../src/cli/side_by_side.ts';

describe('wrapText', () => {
  test.each([
    ['', 5, ['']],
    ['one two', 7, ['one two']],
    ['one two', 6, ['one', 'two']],
    ['  one \n two ', 20, ['one two']],
    ['abcdefghij', 4, ['abcd', 'efgh', 'ij']],
    ['a abcdefghij b', 4, ['a', 'abcd', 'efgh', 'ij b']],
  ])('%j in %d', (text, width, lines) => {
    expect(wrapText(text, width)).toEqual(lines);
  });
});

test('columns are wrapped, aligned and as wide as allowed', () => {
  const rows = [
    { heading: 'love, n.', left: 'a temporary insanity', right: 'curable' },
    { heading: 'x', left: '', right: 'curable by marriage' },
  ];
  expect(sideBySide(['before', 'after'], rows, 27)).toEqual([
    'before       │ after',
    '─────────────┼─────────────',
    'love, n.',
    'a temporary  │ curable',
    'insanity     │',
    '─────────────┼─────────────',
    'x',
    '             │ curable by',
    '             │ marriage',
  ]);
});

test('a narrow terminal still gets columns', () => {
  expect(sideBySide(['before', 'after'], [], 5)).toEqual(['before       │ after']);
});

test('titles and headings are marked', () => {
  const lines = sideBySide(['l', 'r'], [{ heading: 'h', left: 'a', right: 'b' }], 40, (text) => `*${text}*`);
  expect(lines[0]).toMatch(/^\*l\* +│ \*r\*$/);
  expect(lines[2]).toBe('*h*');
  expect(lines[3]).toMatch(/^a +│ b$/);
});
