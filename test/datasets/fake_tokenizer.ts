// SPDX-License-Identifier: Apache-2.0
/** A tokenizer small enough to check by hand: one id a character, and the pair "ab" as one token, like a BPE merge. */
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts';

export const EOS = 0;

/** Ids: 0 end of text, "a" 1, "b" 2, …, "z" 26, space 27, "ab" 28. */
export function fakeTokenizer(eosTokenId: number | undefined = EOS): Tokenizer {
  const encode = (text: string): number[] =>
    (text.match(/\0|ab|./gs) ?? []).map((piece) => {
      if (piece === 'ab') return 28;
      if (piece === '\0') return EOS;
      return piece === ' ' ? 27 : piece.charCodeAt(0) - 96;
    });
  const call = (text: string | readonly string[]) => {
    const inputIds = (typeof text === 'string' ? [text] : text).map(encode);
    return { inputIds, attentionMask: inputIds.map((ids) => ids.map(() => 1)) };
  };
  const unused = () => {
    throw new Error('tokenizing a dataset needs encode alone');
  };
  return Object.assign(call, {
    encode,
    decode: unused,
    batchDecode: unused,
    streamDecoder: unused,
    idToToken: unused,
    tokenToId: unused,
    eosTokenId,
    bosTokenId: undefined,
    padTokenId: undefined,
    unkTokenId: undefined,
    vocabSize: 29,
    chatTemplate: undefined,
    applyChatTemplate: unused,
    files: [],
  });
}
