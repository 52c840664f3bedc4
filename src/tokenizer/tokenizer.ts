// SPDX-License-Identifier: Apache-2.0
/** Tokenizers of model folders and Hub repositories (tokenizer.json), on @huggingface/tokenizers. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Tokenizer as TokenizerCore } from '@huggingface/tokenizers';
import { messageOf, UserError } from '../errors.ts';
import { readJsonFile } from '../files.ts';
import { type HubOptions, resolveModelFolder, selectTokenizerFiles } from '../hub.ts';
import { isJsonObject } from '../json.ts';
import { type ChatMessage, type ChatTemplateOptions, readChatTemplates, renderChat } from './chat_template.ts';
import { createStreamDecoder, type StreamDecoder } from './stream_decoder.ts';

export interface TokenizerOutput {
  /** Token ids, one list a text, not padded. */
  inputIds: number[][];
  /** A 1 for every id. */
  attentionMask: number[][];
}

/** A tokenizer; called, it encodes one text or several. */
export interface Tokenizer {
  (text: string | readonly string[]): TokenizerOutput;
  /**
   * Token ids of a text.
   * @param options.addSpecialTokens add what tokenizer.json's post-processor adds (Mamba's adds nothing), true
   * @throws UserError when a piece of the text is not in the vocabulary, nor is the unknown token that stands for it
   */
  encode(text: string, options?: { addSpecialTokens?: boolean }): number[];
  /**
   * The text of token ids. Ids that no token has (the padding rows of an embedding) give nothing.
   * @param options.skipSpecialTokens leave out end-of-text and the like, false
   */
  decode(ids: readonly number[], options?: { skipSpecialTokens?: boolean }): string;
  batchDecode(batch: readonly (readonly number[])[], options?: { skipSpecialTokens?: boolean }): string[];
  /** A decoder for ids that come one by one. It never emits a part of a character. */
  streamDecoder(options?: { skipSpecialTokens?: boolean }): StreamDecoder;
  /** The token's text as the vocabulary spells it. */
  idToToken(id: number): string | undefined;
  tokenToId(token: string): number | undefined;
  readonly eosTokenId: number | undefined;
  readonly bosTokenId: number | undefined;
  readonly padTokenId: number | undefined;
  readonly unkTokenId: number | undefined;
  /** Largest token id + 1. */
  readonly vocabSize: number;
  /**
   * The text of a conversation by the chat template. Encode it with `addSpecialTokens: false`: the template writes those it wants.
   * @throws UserError when there is no template, or it is wrong or refuses the messages
   */
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions): string;
  /** The Jinja chat template, where there is one. */
  readonly chatTemplate: string | undefined;
  /** Paths of the files it was made from, to copy beside a saved model. */
  readonly files: readonly string[];
}

/** Keys of tokenizer_config.json and special_tokens_map.json, and variables of chat templates. */
const SPECIAL_TOKENS = ['bos_token', 'eos_token', 'pad_token', 'unk_token', 'sep_token', 'cls_token', 'mask_token'];

export const AutoTokenizer = {
  /**
   * Loads the tokenizer of a model.
   *
   * @param pathOrRepo a folder with tokenizer.json, or owner/name on the Hub
   * @throws UserError when there is none, or its files are wrong (file, line and column)
   */
  async fromPretrained(pathOrRepo: string, options: HubOptions = {}): Promise<Tokenizer> {
    const folder = await resolveModelFolder(pathOrRepo, { ...options, select: selectTokenizerFiles });
    return loadTokenizer(folder);
  },
};

/**
 * Loads the tokenizer of a folder.
 * @throws UserError when tokenizer.json is missing or a file is wrong
 */
export function loadTokenizer(folder: string): Tokenizer {
  const path = join(folder, 'tokenizer.json');
  if (!existsSync(path)) {
    throw new UserError(
      `${folder} holds no tokenizer.json. Copy it from the model the weights come from (original state-spaces Mamba models use that of EleutherAI/gpt-neox-20b).`,
    );
  }
  const config = readOptionalJson(join(folder, 'tokenizer_config.json'));
  const specialTokens = readOptionalJson(join(folder, 'special_tokens_map.json'));
  const core = createCore(path, config);
  const files = selectTokenizerFiles([
    'tokenizer.json',
    'tokenizer_config.json',
    'special_tokens_map.json',
    'chat_template.jinja',
  ])
    .map((name) => join(folder, name))
    .filter((file) => existsSync(file));

  const specialToken = (key: string) => contentOf(config[key]) ?? contentOf(specialTokens[key]);
  const specialId = (key: string): number | undefined => {
    const token = specialToken(key);
    return token === undefined ? undefined : core.token_to_id(token);
  };
  const templates = readChatTemplates(folder, config);
  const variables = Object.fromEntries(SPECIAL_TOKENS.map((key) => [key, specialToken(key)]));
  return makeTokenizer(core, path, cleansUp(config), {
    eosTokenId: specialId('eos_token'),
    bosTokenId: specialId('bos_token'),
    padTokenId: specialId('pad_token'),
    unkTokenId: specialId('unk_token'),
    vocabSize: 1 + Math.max(-1, ...core.get_vocab().values()),
    chatTemplate: templates.byName.default,
    applyChatTemplate: (messages, options) => renderChat(templates, messages, variables, options),
    files,
  });
}

type TokenizerFacts = Pick<
  Tokenizer,
  | 'eosTokenId'
  | 'bosTokenId'
  | 'padTokenId'
  | 'unkTokenId'
  | 'vocabSize'
  | 'chatTemplate'
  | 'applyChatTemplate'
  | 'files'
>;

function makeTokenizer(core: TokenizerCore, path: string, cleanUp: boolean, facts: TokenizerFacts): Tokenizer {
  const encode: Tokenizer['encode'] = (text, { addSpecialTokens = true } = {}) => {
    const { ids, tokens } = usable(path, () => core.encode(text, { add_special_tokens: addSpecialTokens }));
    // The library leaves undefined where a piece has no id.
    const unknown = (ids as (number | undefined)[]).indexOf(undefined);
    if (unknown >= 0) {
      throw new UserError(`${path}: ${JSON.stringify(tokens[unknown])} has no id in the vocabulary.`);
    }
    return ids;
  };
  const decodeAs = (ids: readonly number[], skipSpecialTokens: boolean, clean: boolean): string => {
    const known = ids.filter((id) => core.id_to_token(id) !== undefined);
    if (known.length === 0) return '';
    const options = { skip_special_tokens: skipSpecialTokens, clean_up_tokenization_spaces: clean };
    return usable(path, () => core.decode(known, options));
  };
  const decode: Tokenizer['decode'] = (ids, { skipSpecialTokens = false } = {}) =>
    decodeAs(ids, skipSpecialTokens, cleanUp);
  const encodeAll = (text: string | readonly string[]): TokenizerOutput => {
    const inputIds = (typeof text === 'string' ? [text] : text).map((item) => encode(item));
    return { inputIds, attentionMask: inputIds.map((ids) => ids.map(() => 1)) };
  };
  return Object.assign(encodeAll, {
    encode,
    decode,
    batchDecode: (batch: readonly (readonly number[])[], options?: { skipSpecialTokens?: boolean }) =>
      batch.map((ids) => decode(ids, options)),
    streamDecoder: ({ skipSpecialTokens = false } = {}) =>
      createStreamDecoder((ids) => decodeAs(ids, skipSpecialTokens, false)),
    idToToken: (id: number) => core.id_to_token(id),
    tokenToId: (token: string) => core.token_to_id(token),
    ...facts,
  });
}

function createCore(path: string, config: Record<string, unknown>): TokenizerCore {
  const json = readJsonFile(path);
  if (!isJsonObject(json.model) || !Array.isArray(json.added_tokens)) {
    throw new UserError(`${path}: this is no tokenizer: expected the keys "model" and "added_tokens".`);
  }
  const complete = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, ...json };
  checkIds(json, path);
  return usable(path, () => new TokenizerCore(complete, { ...config, clean_up_tokenization_spaces: cleansUp(config) }));
}

/** Beyond any vocabulary there is; the library makes lists as long as the largest id. */
const ID_LIMIT = 2 ** 24;

/** @throws UserError for a token whose id is no id */
function checkIds({ model, added_tokens: added }: Record<string, unknown>, path: string): void {
  const vocab = isJsonObject(model) && isJsonObject(model.vocab) ? Object.entries(model.vocab) : [];
  const tokens = Array.isArray(added) ? added.filter(isJsonObject).map(({ content, id }) => [content, id]) : [];
  for (const [token, id] of [...vocab, ...tokens]) {
    if (Number.isInteger(id) && Number(id) >= 0 && Number(id) < ID_LIMIT) continue;
    throw new UserError(
      `${path}: the token ${JSON.stringify(token)} has the id ${JSON.stringify(id)}; expected a whole number from 0 to ${ID_LIMIT - 1}.`,
    );
  }
}

/** What the library makes of a tokenizer.json; it fails in many ways on one that is damaged. */
function usable<T>(path: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    throw new UserError(`${path}: this tokenizer cannot be used: ${messageOf(error)}.`, { cause: error });
  }
}

/** transformers' default is not to remove spaces before punctuation. */
function cleansUp(config: Record<string, unknown>): boolean {
  return config.clean_up_tokenization_spaces === true;
}

function readOptionalJson(path: string): Record<string, unknown> {
  return existsSync(path) ? readJsonFile(path) : {};
}

/** A special token is written as its text, or as an object with its text. */
function contentOf(token: unknown): string | undefined {
  const content = isJsonObject(token) ? token.content : token;
  return typeof content === 'string' ? content : undefined;
}
