// SPDX-License-Identifier: Apache-2.0
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { UserError } from '../../src/errors.ts';
import { createStreamDecoder } from '../../src/tokenizer/stream_decoder.ts';
import { AutoTokenizer, loadTokenizer } from '../../src/tokenizer/tokenizer.ts';
import { startHubServer } from '../helpers/hub_server.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

const MODEL = join(import.meta.dirname, '../../models/mamba-5m');
const tokenizer = await AutoTokenizer.fromPretrained(MODEL);

interface GoldenEncoding {
  text: string;
  ids: number[];
  decoded: string;
  decodedSkip: string;
}

/** Made with Python's tokenizers 0.23.2 from models/mamba-5m/tokenizer.json. */
const goldens: GoldenEncoding[] = JSON.parse(
  readFileSync(join(import.meta.dirname, 'mamba_5m_encodings.json'), 'utf8'),
);

test.each(goldens)("$text encodes and decodes as Python's tokenizers do", ({ text, ids, decoded, decodedSkip }) => {
  expect(tokenizer.encode(text)).toEqual(ids);
  expect(tokenizer.decode(ids)).toBe(decoded);
  expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(decodedSkip);
});

test.each(goldens)('$text streams as it decodes', ({ ids, decoded, decodedSkip }) => {
  for (const [skipSpecialTokens, expected] of [
    [false, decoded],
    [true, decodedSkip],
  ] as const) {
    const decoder = tokenizer.streamDecoder({ skipSpecialTokens });
    const pieces = ids.map((id) => decoder.push(id));
    expect(pieces.join('') + decoder.end()).toBe(expected);
    if (!expected.includes('\ufffd')) expect(pieces.join('')).not.toContain('\ufffd');
    expect(pieces.every((piece) => Buffer.from(piece).toString() === piece)).toBe(true);
  }
});

test('called, it encodes one text or several', () => {
  const one = tokenizer('Hey how are you doing?');
  expect(one.inputIds).toEqual([goldens[1]?.ids]);
  const two = tokenizer(['Hey how are you doing?', '']);
  expect(two.inputIds).toEqual([goldens[1]?.ids, []]);
  expect(two.attentionMask).toEqual([goldens[1]?.ids.map(() => 1), []]);
  expect(tokenizer.batchDecode(two.inputIds)).toEqual(['Hey how are you doing?', '']);
});

test('what it knows of itself', () => {
  expect({ ...tokenizer }).toMatchObject({
    eosTokenId: 0,
    bosTokenId: 0,
    padTokenId: 1,
    unkTokenId: 0,
    vocabSize: 4096,
  });
  expect(tokenizer.chatTemplate).toBeUndefined();
  expect(tokenizer.files).toEqual([join(MODEL, 'tokenizer.json'), join(MODEL, 'tokenizer_config.json')]);
  expect(tokenizer.idToToken(0)).toBe('<|endoftext|>');
  expect(tokenizer.tokenToId('<|padding|>')).toBe(1);
  expect(tokenizer.idToToken(5000)).toBeUndefined();
});

test('ids that no token has give nothing', () => {
  expect(tokenizer.decode([4096, 99999])).toBe('');
  expect(tokenizer.decode([34, 4100, 35])).toBe('AB');
  const decoder = tokenizer.streamDecoder();
  expect([34, 4100, 35].map((id) => decoder.push(id)).join('') + decoder.end()).toBe('AB');
});

/** Decodes bytes as a byte-level tokenizer with one token a byte would. */
const decodeBytes = (bytes: number[]) => new TextDecoder('utf-8', { ignoreBOM: true }).decode(Uint8Array.from(bytes));

test('streaming bytes: a character comes when its last byte does', () => {
  const decoder = createStreamDecoder(decodeBytes);
  expect([...Buffer.from('a€😀')].map((byte) => decoder.push(byte))).toEqual(['a', '', '', '€', '', '', '', '😀']);
  expect(decoder.end()).toBe('');
});

test.each([
  [0xe2, 0x82, 0x41],
  [0x80, 0x80, 0x41, 0xf0, 0x9f],
  [0x41, 0xff, 0xfe, 0xc3, 0xa9, 0xc3],
  [0xed, 0xa0, 0x80, 0x42],
  [...Array(100).fill(0x80), 0xe2, 0x82, 0xac],
])('streaming bytes that are no UTF-8 gives what decoding them at once gives', (...bytes) => {
  const decoder = createStreamDecoder(decodeBytes);
  expect(bytes.map((byte) => decoder.push(byte)).join('') + decoder.end()).toBe(decodeBytes(bytes));
});

test('the cost of a streamed id does not grow with the text', () => {
  let longest = 0;
  const decoder = createStreamDecoder((ids) => {
    longest = Math.max(longest, ids.length);
    return decodeBytes(ids);
  });
  for (let i = 0; i < 5000; i++) decoder.push(i % 3 === 0 ? 0x41 : 0x80);
  for (let i = 0; i < 5000; i++) decoder.push(0x80);
  expect(longest).toBeLessThanOrEqual(16);
});

function spoiled(change: (folder: string) => void): string {
  const folder = join(temporaryFolder(), 'tokenizer');
  cpSync(MODEL, folder, { recursive: true });
  change(folder);
  return folder;
}

test('no tokenizer.json', () => {
  const folder = temporaryFolder();
  expect(() => loadTokenizer(folder)).toThrow(UserError);
  expect(() => loadTokenizer(folder)).toThrow(
    `${folder} holds no tokenizer.json. Copy it from the model the weights come from`,
  );
});

test('a broken tokenizer.json names file, line and column', () => {
  const folder = spoiled((at) => writeFileSync(join(at, 'tokenizer.json'), '{\n "model": {"type": "BPE",\n}}'));
  expect(() => loadTokenizer(folder)).toThrow(
    `${join(folder, 'tokenizer.json')}:3:1: this is not valid JSON: expected a key in double quotes, found "}}".`,
  );
});

test.each([
  ['a', 0.5],
  ['a', -1],
  ['a', '1'],
  ['a', 3_000_000_000],
])('the token %j with the id %j, before a vocabulary of that length is made', (token, id) => {
  const folder = temporaryFolder();
  const path = join(folder, 'tokenizer.json');
  const model = { type: 'BPE', vocab: { [token]: id }, merges: [] };
  writeFileSync(path, JSON.stringify({ model, added_tokens: [] }));
  const message = `${path}: the token "a" has the id ${JSON.stringify(id)}; expected a whole number from 0 to 16777215.`;
  expect(() => loadTokenizer(folder)).toThrow(UserError);
  expect(() => loadTokenizer(folder)).toThrow(message);
  writeFileSync(path, JSON.stringify({ model: { ...model, vocab: {} }, added_tokens: [{ content: token, id }] }));
  expect(() => loadTokenizer(folder)).toThrow(message);
});

test('a JSON file that is no tokenizer', () => {
  const noModel = spoiled((at) => writeFileSync(join(at, 'tokenizer.json'), '{"version":"1.0"}'));
  expect(() => loadTokenizer(noModel)).toThrow('this is no tokenizer: expected the keys "model" and "added_tokens".');
  const noKind = spoiled((at) =>
    writeFileSync(join(at, 'tokenizer.json'), '{"model":{"type":"Abacus"},"added_tokens":[]}'),
  );
  expect(() => loadTokenizer(noKind)).toThrow(`${join(noKind, 'tokenizer.json')}: this tokenizer cannot be used: `);
});

test("a text outside the vocabulary is left out, as in Python's tokenizers, unless an unknown token should stand for it", () => {
  const withUnknown = (unk: string | null) =>
    spoiled((at) => {
      const model = { type: 'BPE', vocab: { a: 0 }, merges: [], unk_token: unk };
      writeFileSync(join(at, 'tokenizer.json'), JSON.stringify({ added_tokens: [], model, decoder: { type: 'Fuse' } }));
    });
  expect(loadTokenizer(withUnknown(null)).encode('ab')).toEqual([0]);
  expect(() => loadTokenizer(withUnknown('<unk>')).encode('ab')).toThrow('"<unk>" has no id in the vocabulary.');
});

test('special tokens as objects, from special_tokens_map.json, and a chat template', () => {
  const folder = spoiled((at) => {
    writeFileSync(
      join(at, 'tokenizer_config.json'),
      JSON.stringify({ eos_token: { content: '<|padding|>' }, chat_template: 'A' }),
    );
    writeFileSync(
      join(at, 'special_tokens_map.json'),
      JSON.stringify({ bos_token: '<|endoftext|>', pad_token: 'no such token' }),
    );
  });
  const other = loadTokenizer(folder);
  expect({ ...other }).toMatchObject({
    eosTokenId: 1,
    bosTokenId: 0,
    padTokenId: undefined,
    unkTokenId: undefined,
    chatTemplate: 'A',
  });
  writeFileSync(join(folder, 'chat_template.jinja'), 'B');
  expect(loadTokenizer(folder).chatTemplate).toBe('B');
  expect(loadTokenizer(folder).files).toHaveLength(4);
});

test('spaces before punctuation go only where the config says so', () => {
  const folder = spoiled((at) =>
    writeFileSync(join(at, 'tokenizer_config.json'), JSON.stringify({ clean_up_tokenization_spaces: true })),
  );
  const ids = tokenizer.encode('a . b');
  expect(tokenizer.decode(ids)).toBe('a . b');
  expect(loadTokenizer(folder).decode(ids)).toBe('a. b');
});

test('a tokenizer of the Hub: only its files are fetched', async () => {
  const read = (name: string) => readFileSync(join(MODEL, name));
  const server = await startHubServer({
    'owner/model': {
      'model.safetensors': 'big',
      'tokenizer.json': read('tokenizer.json'),
      'tokenizer_config.json': read('tokenizer_config.json'),
    },
  });
  onTestFinished(() => server.close());
  const fetched = await AutoTokenizer.fromPretrained('owner/model', {
    hubUrl: server.url,
    cacheDir: temporaryFolder(),
  });
  expect(fetched.encode('Hey how are you doing?')).toEqual(goldens[1]?.ids);
  expect(server.requests.some((line) => line.includes('model.safetensors'))).toBe(false);
});
