// SPDX-License-Identifier: Apache-2.0
/**
 * Chat templates: Jinja programs of a tokenizer's files that turn messages into the text a model was trained on, run by
 * @huggingface/jinja; answers to apply_chat_template of transformers.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Template } from '@huggingface/jinja';
import { messageOf, UserError } from '../errors.ts';
import { isJsonObject } from '../json.ts';

export interface ChatMessage {
  /** Who speaks: system, user, assistant, or what else the template knows. */
  role: string;
  /** What is said. Templates decide about other shapes than text. */
  content?: unknown;
  /** What else the template reads, such as tool_calls. */
  [field: string]: unknown;
}

export interface ChatTemplateOptions {
  /** End with what begins an answer of the assistant. Default false. */
  addGenerationPrompt?: boolean;
  /** Descriptions of functions, for templates that know tools. Default none. */
  tools?: readonly unknown[];
  /** A template in place of the tokenizer's own. */
  chatTemplate?: string;
  /** Further variables of the template, such as enable_thinking. Default none. */
  variables?: Readonly<Record<string, unknown>>;
}

/** The chat templates of a tokenizer, by name, and the file they were read from. */
export interface ChatTemplates {
  path: string;
  byName: Readonly<Record<string, string>>;
}

/**
 * Reads chat_template.jinja, else `chat_template` of tokenizer_config.json: one template, or a list of `{name, template}`.
 * @param config tokenizer_config.json's content
 * @throws UserError when `chat_template` is neither
 */
export function readChatTemplates(folder: string, config: Readonly<Record<string, unknown>>): ChatTemplates {
  const file = join(folder, 'chat_template.jinja');
  if (existsSync(file)) return { path: file, byName: { default: readFileSync(file, 'utf8') } };
  const path = join(folder, 'tokenizer_config.json');
  const value = config.chat_template ?? [];
  if (typeof value === 'string') return { path, byName: { default: value } };
  if (Array.isArray(value) && value.every(isNamedTemplate)) {
    return { path, byName: Object.fromEntries(value.map(({ name, template }) => [name, template])) };
  }
  throw new UserError(
    `${path}: chat_template is neither a text nor a list of objects with "name" and "template"; expected one of them.`,
  );
}

/**
 * The text of a conversation. Encode it without special tokens: templates write those that they want.
 *
 * @param specialTokens by the template's variable: bos_token, eos_token, ...
 * @throws UserError when there is no template, or it is wrong or refuses the messages
 */
export function renderChat(
  { path, byName }: ChatTemplates,
  messages: readonly ChatMessage[],
  specialTokens: Readonly<Record<string, string | undefined>>,
  options: ChatTemplateOptions = {},
): string {
  const { addGenerationPrompt = false, tools, chatTemplate, variables } = options;
  const template = chatTemplate ?? (tools && byName.tool_use) ?? byName.default;
  if (template === undefined) {
    const others = Object.keys(byName);
    throw new UserError(
      others.length > 0
        ? `${path}: found the chat templates ${others.join(', ')}, but none named default; give one of them as the template.`
        : `${path}: the tokenizer has no chat template, as most base models have none; give a template, or the text itself as a prompt.`,
    );
  }
  try {
    return new Template(template).render({
      ...specialTokens,
      ...(tools && { tools }),
      ...variables,
      messages,
      add_generation_prompt: addGenerationPrompt,
    });
  } catch (error) {
    const where = chatTemplate === undefined ? `${path}: the chat template` : 'the given chat template';
    throw new UserError(`${where} failed: ${messageOf(error)}.`, { cause: error });
  }
}

function isNamedTemplate(value: unknown): value is { name: string; template: string } {
  return isJsonObject(value) && typeof value.name === 'string' && typeof value.template === 'string';
}
