// SPDX-License-Identifier: Apache-2.0
/** What the keys of a source of records require of one another and of the disk. */
import { existsSync, statSync } from 'node:fs';
import { looksLikeRepo } from '../hub.ts';
import { isJsonObject } from '../json.ts';
import { type ConfigProblem, notFound, problem } from './config_problem.ts';

/** @param key dotted keys of the source */
export function problemsOfSource(source: unknown, key: string): ConfigProblem[] {
  if (!isJsonObject(source)) return [];
  const { path, hub } = source;
  const isSet = (field: string) => source[field] !== undefined && source[field] !== null;

  const problems: ConfigProblem[] = [];
  if (isSet('path') === isSet('hub')) {
    const found = isSet('path') ? 'found both path and hub' : 'found neither path nor hub';
    problems.push(problem(key, `${found}; expected one: path (JSONL file or folder) or hub (owner/name)`));
    return problems;
  }
  if (typeof hub === 'string' && !looksLikeRepo(hub)) {
    problems.push(problem(`${key}.hub`, `found ${JSON.stringify(hub)}; expected a Hub dataset id, owner/name`));
  }
  if (typeof path === 'string') {
    if (!existsSync(path)) problems.push(problem(`${key}.path`, notFound(path)));
    else if (isSet('split') && !statSync(path).isDirectory()) {
      problems.push(problem(`${key}.split`, `${JSON.stringify(path)} is a file, which has no splits; remove this key`));
    }
    if (isSet('revision'))
      problems.push(problem(`${key}.revision`, 'only a Hub dataset has revisions; remove this key'));
  }
  if (isSet('text_field') && (isSet('prompt_field') || isSet('completion_field'))) {
    problems.push(
      problem(`${key}.text_field`, 'records are read as text or as prompt and completion, not both; remove one'),
    );
  }
  return problems;
}
