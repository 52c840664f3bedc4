// SPDX-License-Identifier: Apache-2.0
/** Configs that explain themselves: YAML with the schema's description before each key. */
import { stringify } from 'yaml';
import { isJsonObject } from '../json.ts';
import type { JsonSchema } from './schema.ts';

export interface CommentOptions {
  /**
   * Also what `values` leave out or set to null: commented out, with defaults. Otherwise the keys of `values` alone, each with the
   * first sentence of its description.
   */
  all: boolean;
}

const LINE_WIDTH = 110;

/**
 * The YAML of some values of a config, in the schema's order.
 * @param values nested as the schema is
 */
export function commentedConfig(
  schema: JsonSchema,
  values: Readonly<Record<string, unknown>>,
  options: CommentOptions,
): string {
  return sections(schema, values, options)
    .map((lines) => `${lines.join('\n')}\n`)
    .join('\n');
}

/** The lines of each key. */
function sections(schema: JsonSchema, values: Readonly<Record<string, unknown>>, options: CommentOptions): string[][] {
  return Object.entries(schema.properties ?? {}).flatMap(([key, node]) => {
    const value = values[key];
    if (value === undefined && !options.all) return [];
    const comment = wrap(describe(node, value, options));
    const within = objectsOf(node);
    const items = objectsOf(node.items ?? {}).concat(
      (node.anyOf ?? []).flatMap(({ items: item }) => objectsOf(item ?? {})),
    );
    const [object] = within;
    if (isJsonObject(value) && object)
      return [[...comment, `${key}:`, ...indent(join(sections(object, value, options)), '  ')]];
    const line = value === undefined ? `# ${key}: …` : `${key}: ${inline(value)}`;
    return [[...comment, line, ...(options.all ? possible(within, items) : [])]];
  });
}

/** What could stand at a key that holds none of it. */
function possible(within: readonly JsonSchema[], items: readonly JsonSchema[]): string[] {
  const example = (schema: JsonSchema) => join(sections(schema, defaultsOf(schema), { all: true }));
  const item = (schema: JsonSchema) => {
    const lines = indent(example(schema), '  ');
    const first = lines.findIndex((line) => /^ {2}[^# ]/.test(line));
    return lines.map((line, i) => (i > first ? line : line.replace(/^ {2}/, i === first ? '- ' : '')));
  };
  return indent([...within.flatMap(example), ...items.flatMap(item)], '#   ');
}

function defaultsOf(schema: JsonSchema): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(schema.properties ?? {}).map(([key, node]) => [key, node.const ?? node.default]),
  );
}

/** The description, and what the key may hold where the type alone does not say it. */
function describe(node: JsonSchema, value: unknown, { all }: CommentOptions): string {
  const text = node.description ?? '';
  if (!all) return text.match(/^.*?[^.]\.(?= |$)/)?.[0] ?? text;
  const isOther = node.default !== undefined && JSON.stringify(node.default) !== JSON.stringify(value);
  return [
    text,
    node.enum && node.enum.length > 1 ? `One of: ${node.enum.map(inline).join(', ')}.` : '',
    isOther && !isJsonObject(node.default) ? `Default: ${inline(node.default)}.` : '',
  ]
    .filter(Boolean)
    .join(' ');
}

/** The object schemas that a key may hold: itself, or branches of a choice. */
function objectsOf(node: JsonSchema): JsonSchema[] {
  if (node.properties) return [node];
  return [...(node.anyOf ?? []), ...(node.oneOf ?? [])].flatMap(objectsOf);
}

function inline(value: unknown): string {
  return stringify(value, { collectionStyle: 'flow', flowCollectionPadding: false, lineWidth: 0 }).trimEnd();
}

/** Sections with an empty line between those of more than two lines. */
function join(parts: readonly string[][]): string[] {
  return parts.flatMap((lines, i) =>
    i > 0 && Math.max(lines.length, parts[i - 1]?.length ?? 0) > 2 ? ['', ...lines] : lines,
  );
}

function indent(lines: readonly string[], by: string): string[] {
  return lines.map((line) => (line === '' ? by.trimEnd() : by + line));
}

/** A comment of as many lines as it takes. */
function wrap(text: string): string[] {
  const lines: string[] = [];
  let line = '#';
  for (const word of text.split(' ').filter(Boolean)) {
    if (line.length + 1 + word.length > LINE_WIDTH && line !== '#') {
      lines.push(line);
      line = '#';
    }
    line += ` ${word}`;
  }
  return line === '#' ? lines : [...lines, line];
}
