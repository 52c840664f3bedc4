// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest';
import { UserError } from '../src/errors.ts';
import { findJsonFault, parseJson } from '../src/json.ts';

test('accepts what JSON.parse accepts', () => {
  const texts = [
    '{}',
    '[]',
    ' {"a":[1,-0.5e+3,true,false,null,"\\u00e9\\n\\"x"]} ',
    '"é\u2028"',
    '0',
    JSON.stringify({ long: 'x'.repeat(3_000_000) }),
  ];
  for (const text of texts) {
    expect(findJsonFault(text)).toBeUndefined();
    expect(() => JSON.parse(text)).not.toThrow();
  }
});

test.each([
  ['{"a":1,}', 7, 'expected a key in double quotes, found "}"'],
  ['{"a" 1}', 5, 'expected ":", found "1}"'],
  ['[1 2]', 3, 'expected "," or "]", found "2]"'],
  ['{"a":1', 6, 'expected "," or "}", found the end of the text'],
  ['', 0, 'expected a value, found the end of the text'],
  ['01', 1, 'expected nothing after the value, found "1"'],
  ['"\n"', 0, 'expected a value'],
  ['"\\x"', 0, 'expected a value'],
  ['nul', 0, 'expected a value, found "nul"'],
])('finds the fault in %j', (text, offset, message) => {
  expect(() => JSON.parse(text)).toThrow(SyntaxError);
  const fault = findJsonFault(text);
  expect(fault?.offset).toBe(offset);
  expect(fault?.message).toContain(message);
});

test('finds a key that stands twice, however it is spelled', () => {
  expect(findJsonFault('{"a":1,"\\u0061":2}')).toEqual({ offset: 7, message: 'the key "a" stands twice' });
  expect(findJsonFault('{"a":{"b":1},"c":{"b":1}}')).toBeUndefined();
});

test('a bottomless text is refused, not followed', () => {
  expect(findJsonFault('['.repeat(100_000))?.message).toContain('nested deeper than');
});

test('parseJson names file, line and column', () => {
  expect(() => parseJson('{\n  "a": 1\n  "b": 2\n}', 'x.json')).toThrow(UserError);
  expect(() => parseJson('{\n  "a": 1\n  "b": 2\n}', 'x.json')).toThrow(
    'x.json:3:3: this is not valid JSON: expected "," or "}", found "\\"b\\": 2\\n}".',
  );
});
