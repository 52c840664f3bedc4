// SPDX-License-Identifier: Apache-2.0
/** Items of evaluation jobs: JSONL records whose fields a job names. */
import { placeOf } from '../../datasets/index.ts';
import { readJsonl } from '../../datasets/readers/jsonl.ts';
import { UserError } from '../../src/errors.ts';
import { isJsonObject } from '../../src/json.ts';

export interface Item {
  /** `file:line`, for messages. */
  where: string;
  fields: Record<string, unknown>;
}

/**
 * Reads the first `limit` items of a file.
 * @throws UserError when it cannot be read, holds no item, or a line is no JSON object
 */
export async function readItems(path: string, limit: number | null): Promise<Item[]> {
  const items: Item[] = [];
  for await (const row of readJsonl({ path, name: path })) {
    if (limit !== null && items.length === limit) break;
    if ('fault' in row) throw row.fault;
    const { value } = row;
    const where = placeOf(row.origin);
    if (!isJsonObject(value)) throw new UserError(`${where}: found ${JSON.stringify(value)}; expected a JSON object`);
    items.push({ where, fields: value });
  }
  if (items.length === 0) throw new UserError(`${path}: the file has no items; expected one JSON object a line`);
  return items;
}

/** A text field. @throws UserError, with file and line, when it is missing or something else */
export function textOf(item: Item, field: string): string {
  const value = fieldOf(item, field);
  if (typeof value === 'string') return value;
  throw new UserError(`${item.where}: ${field} is ${JSON.stringify(value)}; expected a string`);
}

/** A list of at least `least` texts. @throws UserError, with file and line, when it is missing or something else */
export function textsOf(item: Item, field: string, least: number): string[] {
  const value = fieldOf(item, field);
  if (!Array.isArray(value) || !value.every((text) => typeof text === 'string')) {
    throw new UserError(`${item.where}: ${field} is ${JSON.stringify(value)}; expected a list of strings`);
  }
  if (value.length >= least) return value as string[];
  throw new UserError(`${item.where}: ${field} has ${value.length} of at least ${least} texts`);
}

/** A field of any type. @throws UserError that lists the fields there are */
export function fieldOf({ fields, where }: Item, field: string): unknown {
  if (Object.hasOwn(fields, field)) return fields[field];
  const found = Object.keys(fields).join(', ') || 'none';
  throw new UserError(`${where}: there is no field ${field}; its fields are: ${found}. The job's keys name the fields`);
}
