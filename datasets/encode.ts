// SPDX-License-Identifier: Apache-2.0
/**
 * One record as token ids and labels, as trl's SFTTrainer does it: a prompt and its completion are tokenized as one text, and
 * the prompt's share of the ids is as long as the prompt tokenized alone; so are the turns of a conversation.
 */
import { UserError } from '../src/errors.ts';
import type { Tokenizer } from '../src/tokenizer/tokenizer.ts';
import {
  alpacaPrompt,
  type ChatTemplateName,
  type Conversation,
  instructionMessages,
  renderConversation,
} from './conversation.ts';
import { IGNORE_INDEX, recordError } from './fields.ts';
import type { DataRecord } from './records.ts';
import type { Sequence } from './sequences.ts';

/** One training sequence, of one record. */
export interface Example extends Sequence {
  /** Ids before the first that carries loss for what it answers; 0 for records without prompt. */
  promptLength: number;
}

export interface EncodeOptions {
  /**
   * Whether loss is on the completion, or on the assistant's turns, alone. Default null: where records have them. It does not
   * touch records that bring their own labels.
   */
  completionOnlyLoss?: boolean | null;
  /** The assistant's turns that carry loss when not all tokens do. Default all. */
  assistantTurns?: 'all' | 'last';
  /** How messages and instructions are written. Default null: messages by the tokenizer's template, instructions by alpaca. */
  chatTemplate?: ChatTemplateName | null;
  /** End each record with the tokenizer's end-of-text id, unless it already does. Default true. */
  appendEos?: boolean;
}

export interface EncodedRecord {
  example: Example;
  /** Whether the ids of a prompt or turn alone are not the ids it has in the whole: its mask may be off by a token. */
  promptMismatch: boolean;
}

export type RecordEncoder = (record: DataRecord) => EncodedRecord;

/**
 * An encoder of records.
 *
 * @throws UserError when `appendEos` meets a tokenizer without end-of-text token; from the encoder, with the record's place,
 *   for a record that `completionOnlyLoss: true` cannot mask, or that the chat template refuses
 */
export function recordEncoder(tokenizer: Tokenizer, options: EncodeOptions = {}): RecordEncoder {
  const { completionOnlyLoss = null, assistantTurns = 'all', chatTemplate = null, appendEos = true } = options;
  const eosTokenId = appendEos ? endOfText(tokenizer) : undefined;
  const answersOnly = completionOnlyLoss ?? true;
  const converse = (conversation: Conversation) => encodeConversation(conversation, tokenizer, eosTokenId, answersOnly);

  return (record) => {
    switch (record.kind) {
      case 'prompt-completion':
        return encodePair(record.prompt, record.completion, tokenizer, eosTokenId, answersOnly);
      case 'messages':
        return converse(
          renderConversation(record.messages, record, tokenizer, chatTemplate ?? 'tokenizer', assistantTurns),
        );
      case 'instruction': {
        const { instruction, input, output } = record;
        if (chatTemplate === null || chatTemplate === 'alpaca') {
          return encodePair(alpacaPrompt(instruction, input), output, tokenizer, eosTokenId, answersOnly);
        }
        const messages = instructionMessages(instruction, input, output);
        return converse(renderConversation(messages, record, tokenizer, chatTemplate, 'all'));
      }
      case 'text':
        if (completionOnlyLoss === true) throw cannotMask(record, 'a text');
        return unmasked(Int32Array.from(withEos(tokenizer.encode(record.text), eosTokenId)));
      case 'input-ids':
        if (record.labels) {
          return {
            example: { inputIds: record.inputIds, labels: record.labels, promptLength: 0 },
            promptMismatch: false,
          };
        }
        if (completionOnlyLoss === true) throw cannotMask(record, 'input_ids without labels');
        return unmasked(record.inputIds);
    }
  };
}

function endOfText(tokenizer: Tokenizer): number {
  if (tokenizer.eosTokenId === undefined) {
    throw new UserError(
      'append_eos is true, but the tokenizer has no eos_token; give it one, or set append_eos: false',
    );
  }
  return tokenizer.eosTokenId;
}

function cannotMask(record: DataRecord, found: string): UserError {
  return recordError(
    record,
    `completion_only_loss is true, but the record is ${found}; expected prompt and completion, messages, or instruction and output`,
  );
}

function unmasked(inputIds: Int32Array): EncodedRecord {
  return { example: { inputIds, labels: inputIds.slice(), promptLength: 0 }, promptMismatch: false };
}

function encodePair(
  prompt: string,
  completion: string,
  tokenizer: Tokenizer,
  eosTokenId: number | undefined,
  masked: boolean,
): EncodedRecord {
  const alone = tokenizer.encode(prompt);
  const inputIds = Int32Array.from(withEos(tokenizer.encode(prompt + completion), eosTokenId));
  const promptLength = Math.min(alone.length, inputIds.length);
  const labels = inputIds.slice();
  if (masked) labels.fill(IGNORE_INDEX, 0, promptLength);
  return { example: { inputIds, labels, promptLength }, promptMismatch: masked && !beginsWith(inputIds, alone) };
}

/** The template writes the special tokens that it wants; the end of text is added to those that do not end with it. */
function encodeConversation(
  { text, turns, endsWithAssistant }: Conversation,
  tokenizer: Tokenizer,
  eosTokenId: number | undefined,
  masked: boolean,
): EncodedRecord {
  const encode = (part: string) => tokenizer.encode(part, { addSpecialTokens: false });
  const ids = encode(text);
  const eosToken = eosTokenId === undefined ? undefined : tokenizer.idToToken(eosTokenId);
  const isEnded = eosToken === undefined || text.trimEnd().endsWith(eosToken);
  const inputIds = Int32Array.from(isEnded ? ids : withEos(ids, eosTokenId));

  let promptMismatch = false;
  const tokensBefore = (end: number): number => {
    if (end === text.length) return ids.length;
    const before = encode(text.slice(0, end));
    promptMismatch ||= masked && !beginsWith(inputIds, before);
    return Math.min(before.length, ids.length);
  };
  const spans = turns.map(({ start, end }) => ({ start: tokensBefore(start), end: tokensBefore(end) }));
  const promptLength = spans[0]?.start ?? ids.length;
  if (!masked) return { example: { inputIds, labels: inputIds.slice(), promptLength }, promptMismatch };

  const labels = new Int32Array(inputIds.length).fill(IGNORE_INDEX);
  for (const { start, end } of spans) labels.set(inputIds.subarray(start, end), start);
  if (endsWithAssistant) labels.set(inputIds.subarray(ids.length), ids.length);
  return { example: { inputIds, labels, promptLength }, promptMismatch };
}

function withEos(ids: number[], eosTokenId: number | undefined): number[] {
  return eosTokenId === undefined || ids.at(-1) === eosTokenId ? ids : [...ids, eosTokenId];
}

function beginsWith(ids: Int32Array, beginning: readonly number[]): boolean {
  return beginning.every((id, position) => ids[position] === id);
}
