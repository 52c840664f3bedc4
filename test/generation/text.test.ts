// SPDX-License-Identifier: Apache-2.0
/** A row's text: stop strings wherever tokens divide them, nothing shown too early, special tokens. */
import { describe, expect, test } from 'vitest';
import { rowText, type TextDecoder } from '../../src/generation/text.ts';
import { createStreamDecoder } from '../../src/tokenizer/stream_decoder.ts';
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts';

/** One token a piece; `<end>` is special and has no text. */
function pieces(...vocabulary: string[]): TextDecoder & { ids: (...tokens: string[]) => number[] } {
  const all = [...vocabulary, '<end>'];
  const decode = (ids: number[]) => ids.map((id) => (all[id] === '<end>' ? '' : (all[id] ?? ''))).join('');
  return {
    streamDecoder: () => createStreamDecoder(decode),
    tokenToId: (token) => (all.includes(token) ? all.indexOf(token) : undefined),
    ids: (...tokens) => tokens.map((token) => all.indexOf(token)),
  };
}

/** What each token gives, and the whole text with its end. */
function run(tokenizer: ReturnType<typeof pieces>, stops: string[], ...tokens: string[]) {
  const text = rowText(tokenizer, [], stops);
  const given: string[] = [];
  for (const id of tokenizer.ids(...tokens)) {
    const said = text.push(id);
    given.push(said.text);
    if (said.isStopped) return { given, isStopped: true, whole: given.join('') };
  }
  return { given, isStopped: false, whole: given.join('') + text.end() };
}

describe('stop strings', () => {
  const tokenizer = pieces('a', 'b', 'ab', 'abc', 'xx', '\n', '\n\n', 'x\ny');

  test.each<[string[], string[], string, boolean]>([
    [['b'], ['a', 'b', 'a'], 'a', true],
    [['\n\n'], ['a', '\n', '\n', 'b'], 'a', true],
    [['\n\n'], ['a', '\n\n'], 'a', true],
    [['\n\n'], ['a', '\n', 'b', '\n'], 'a\nb\n', false],
    [['bab'], ['ab', 'ab', 'a'], 'a', true],
    [['aab'], ['a', 'a', 'ab'], 'a', true],
    [['\n'], ['a', 'x\ny'], 'ax', true],
    [['abcab', 'c'], ['abc', 'a'], 'ab', true],
    [['cx', 'ab'], ['b', 'abc'], 'b', true],
    [['zz'], ['a', 'xx'], 'axx', false],
    [[], ['a', 'b'], 'ab', false],
  ])('%j in %j leaves %j', (stops, tokens, whole, isStopped) => {
    expect(run(tokenizer, stops, ...tokens)).toMatchObject({ whole, isStopped });
  });

  test('what may begin one waits until it does not', () => {
    expect(run(tokenizer, ['\n\nb'], 'a', '\n', '\n', 'a', '\n').given).toEqual(['a', '', '', '\n\na', '']);
  });

  test('one that is a special token is found as that token', () => {
    expect(run(tokenizer, ['<end>'], 'a', 'b', '<end>')).toEqual({
      given: ['a', 'b', ''],
      isStopped: true,
      whole: 'ab',
    });
    expect(run(tokenizer, [], 'a', '<end>', 'b')).toMatchObject({ whole: 'ab', isStopped: false });
  });

  test('held-back text is not lost to a special token', () => {
    expect(run(tokenizer, ['<end>', '\n\n'], 'a', '\n', '<end>')).toMatchObject({ whole: 'a\n', isStopped: true });
  });
});

test('with a real tokenizer, any cut of a text gives the text before its first stop', () => {
  const tokenizer = loadTokenizer('models/mamba-5m');
  const ids = tokenizer.encode('A person, n. One who — “naïvely” — 東京 trusts.\n\nQ: next');
  const whole = tokenizer.decode(ids);
  for (const stop of ['\n\n', '\n\nQ:', 'trusts', '京', '“naïvely”', 'One who —', 'next', 'not there']) {
    const text = rowText(tokenizer, [], [stop]);
    let got = '';
    let isStopped = false;
    for (const id of ids) {
      const said = text.push(id);
      got += said.text;
      isStopped = said.isStopped;
      if (isStopped) break;
    }
    if (!isStopped) got += text.end();
    const at = whole.indexOf(stop);
    expect({ stop, got, isStopped }).toEqual({
      stop,
      got: at === -1 ? whole : whole.slice(0, at),
      isStopped: at !== -1,
    });
  }
});
