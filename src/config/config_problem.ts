// SPDX-License-Identifier: Apache-2.0
/** A fault of a config that the schema does not show. */
import { resolve } from 'node:path';

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
