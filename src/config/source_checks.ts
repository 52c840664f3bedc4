// SPDX-License-Identifier: Apache-2.0
/** What the keys of a source of records require of one another and of the disk. */
import { existsSync, statSync } from 'node:fs';
import { looksLikeRepo } from '../hub.ts';
import { isJsonObject } from '../json.ts';
import { type ConfigProblem, notFound, problem } from './config_problem.ts';

/** The fields of each way to read a record. */
const FORMAT_FIELDS = [
  ['text_field'],
  ['prompt_field', 'completion_field'],
  ['messages_field'],
  ['instruction_field', 'input_field', 'output_field'],
];

/** @param key dotted keys of the source */
export function problemsOfSource(source: unknown, key: string): ConfigProblem[] {
  if (!isJsonObject(source)) return [];
  const { sources } = source;
  if (sources === undefined || sources === null) return problemsOfSingle(source, key);
  const others = Object.keys(source).filter((field) => field !== 'sources' && (source[field] ?? null) !== null);
  const contents = others.filter((field) => field !== 'sample_by');
  if (contents.length > 0) {
    return [problem(key, `found sources and ${contents.join(', ')}; with sources, these keys stand in its items`)];
  }
  if (!Array.isArray(sources)) return [];
  return sources.flatMap((item: unknown, index) =>
    isJsonObject(item) ? problemsOfSingle(item, `${key}.sources.${index}`) : [],
  );
}

function problemsOfSingle(source: Record<string, unknown>, key: string): ConfigProblem[] {
  const { path, hub } = source;
  const isSet = (field: string) => source[field] !== undefined && source[field] !== null;
  const problems: ConfigProblem[] = [];
  const add = (field: string, message: string) => problems.push(problem(`${key}.${field}`, message));

  if (isSet('path') === isSet('hub')) {
    const found = isSet('path') ? 'found both path and hub' : 'found neither path nor hub';
    return [problem(key, `${found}; expected one: path (file, folder or glob) or hub (owner/name)`)];
  }
  if (typeof hub === 'string' && !looksLikeRepo(hub)) {
    add('hub', `found ${JSON.stringify(hub)}; expected a Hub dataset id, owner/name`);
  }
  if (typeof path === 'string') {
    const isThere = existsSync(path);
    if (!isThere && !/[*?[\]{}]/.test(path)) add('path', notFound(path));
    else if (isSet('split') && !(isThere && statSync(path).isDirectory())) {
      add('split', `${JSON.stringify(path)} is a ${isThere ? 'file' : 'glob'}, which has no splits; remove this key`);
    }
    if (isSet('revision')) add('revision', 'only a Hub dataset has revisions; remove this key');
  }
  const named = FORMAT_FIELDS.map((fields) => fields.filter(isSet)).filter((fields) => fields.length > 0);
  const [[field] = [], [other] = []] = named;
  if (field !== undefined && other !== undefined) {
    add(field, `${other} is set too, and records are read in one way; remove one of the two`);
  }
  return problems;
}
