// SPDX-License-Identifier: Apache-2.0
/** A fault of a config that the schema does not show, and how the checks look at a config that may have others. */
import { resolve } from 'node:path';
import { isJsonObject } from '../json.ts';

/** What is wrong, and the keys that lead to it. */
export interface ConfigProblem {
  path: readonly PropertyKey[];
  message: string;
}

/** @param key dotted keys */
export function problem(key: string, message: string): ConfigProblem {
  return { path: key.split('.'), message };
}

export function notFound(path: string): string {
  return `there is no ${JSON.stringify(path)} (looked at ${resolve(path)}; paths are relative to the current directory)`;
}

/** A key of a section; undefined when there is none. */
export function get(config: unknown, section: string, key: string): unknown {
  const part = isJsonObject(config) ? config[section] : undefined;
  return isJsonObject(part) ? part[key] : undefined;
}

export function isPositive(value: unknown): boolean {
  return typeof value === 'number' && value > 0;
}
