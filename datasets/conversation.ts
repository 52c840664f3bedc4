// SPDX-License-Identifier: Apache-2.0
/** Messages and instructions as text, with the places in it that an assistant wrote. */
import type { ChatMessage } from '../src/tokenizer/chat_template.ts';
import { NAMED_CHAT_TEMPLATES, type NamedChatTemplate } from '../src/tokenizer/named_chat_templates.ts';
import type { Tokenizer } from '../src/tokenizer/tokenizer.ts';
import { type RecordOrigin, recordError } from './fields.ts';

/** `tokenizer`: the tokenizer's own; otherwise one by its name. */
export type ChatTemplateName = 'tokenizer' | NamedChatTemplate;

/** From `start` to before `end`, in UTF-16 units. */
export interface Span {
  start: number;
  end: number;
}

export interface Conversation {
  text: string;
  /** The assistant's turns, from behind what `addGenerationPrompt` writes to the end of what ends a turn. */
  turns: Span[];
  /** Whether the assistant has the last word. */
  endsWithAssistant: boolean;
}

/**
 * Renders messages, and finds the assistant's turns by rendering the messages before each.
 *
 * @param turns which of the assistant's turns to find
 * @throws UserError, with the record's place, when there is no template, it refuses the messages, or it renders a beginning of
 *   the conversation otherwise than as the beginning of the whole
 */
export function renderConversation(
  messages: readonly ChatMessage[],
  origin: RecordOrigin,
  tokenizer: Tokenizer,
  template: ChatTemplateName,
  turns: 'all' | 'last',
): Conversation {
  if (template === 'tokenizer' && tokenizer.chatTemplate === undefined) {
    const names = Object.keys(NAMED_CHAT_TEMPLATES).join(', ');
    throw recordError(
      origin,
      `the record has messages, and the tokenizer has no chat template; set chat_template to one of ${names}`,
    );
  }
  const chatTemplate = template === 'tokenizer' ? undefined : NAMED_CHAT_TEMPLATES[template];
  const render = (count: number, addGenerationPrompt: boolean): string => {
    try {
      return tokenizer.applyChatTemplate(messages.slice(0, count), { addGenerationPrompt, chatTemplate });
    } catch (error) {
      throw recordError(origin, error instanceof Error ? error.message : String(error));
    }
  };
  const text = render(messages.length, false);
  const answers = messages.flatMap(({ role }, index) => (role === 'assistant' ? [index] : []));
  const spans = answers.slice(turns === 'last' ? -1 : 0).map((index): Span => {
    const before = index === 0 ? '' : render(index, true);
    const upTo = index === messages.length - 1 ? text : render(index + 1, false);
    if (text.startsWith(upTo) && upTo.startsWith(before)) return { start: before.length, end: upTo.length };
    throw recordError(
      origin,
      `the chat template renders messages 0 to ${index} otherwise than as the beginning of the whole, so that the assistant's turn cannot be found; set chat_template to another, ${turns === 'all' ? 'or assistant_turns: last, ' : ''}or completion_only_loss: false`,
    );
  });
  return { text, turns: spans, endsWithAssistant: messages.at(-1)?.role === 'assistant' };
}

/** An instruction in Stanford Alpaca's form, up to where the response begins. */
export function alpacaPrompt(instruction: string, input: string): string {
  return input === ''
    ? `Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\n${instruction}\n\n### Response:\n`
    : `Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\n${instruction}\n\n### Input:\n${input}\n\n### Response:\n`;
}

/** An instruction as a conversation of two messages. */
export function instructionMessages(instruction: string, input: string, output: string): ChatMessage[] {
  return [
    { role: 'user', content: input === '' ? instruction : `${instruction}\n\n${input}` },
    { role: 'assistant', content: output },
  ];
}
