// SPDX-License-Identifier: Apache-2.0
/** What the keys of an evaluation require of one another and of the disk. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { looksLikeRepo } from '../hub.ts';
import { isJsonObject } from '../json.ts';
import { type ConfigProblem, notFound, problem } from './config_problem.ts';
import { problemsOfSource } from './source_checks.ts';

/** The name of the model without adapter, in tables and files. */
export const BASE_NAME = 'base';

/** The faults of an evaluation's config that no key shows by itself. */
export function evalProblems(config: unknown): ConfigProblem[] {
  const { data, eval: section } = isJsonObject(config) ? config : {};
  const hasDocuments = isJsonObject(data) && (data.eval ?? null) !== null;
  const jobs = isJsonObject(section) && Array.isArray(section.jobs) ? section.jobs : null;
  if (jobs === null && !hasDocuments) {
    return [problem('data.eval', 'missing; expected the records to evaluate on, such as {path: test.jsonl}')];
  }
  if (!isJsonObject(section)) return [];
  return [
    ...variantProblems(section),
    ...(jobs ?? []).flatMap((job, at) => jobProblems(job, at, jobs ?? [], hasDocuments, section)),
  ];
}

function variantProblems({ adapters, models }: Record<string, unknown>): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  const add = (section: string, name: string, message: string) =>
    problems.push({ path: ['eval', section, name], message });
  for (const [name, folder] of entriesOf(adapters)) {
    if (name === BASE_NAME) add('adapters', name, 'this is the name of the model without adapter; choose another');
    if (typeof folder !== 'string') continue;
    const file = join(folder, 'adapter_config.json');
    if (!existsSync(file)) add('adapters', name, `${notFound(file)}; expected the folder of a PEFT adapter`);
  }
  const adapterNames = new Set(entriesOf(adapters).map(([name]) => name));
  for (const [name, path] of entriesOf(models)) {
    if (name === BASE_NAME) add('models', name, 'this is the name of the model without adapter; choose another');
    if (adapterNames.has(name)) add('models', name, 'an adapter has this name too; choose another');
    if (typeof path !== 'string' || existsSync(path) || looksLikeRepo(path)) continue;
    add('models', name, `${notFound(path)}, and it is no Hub id (owner/name)`);
  }
  return problems;
}

function jobProblems(
  job: unknown,
  at: number,
  jobs: readonly unknown[],
  hasDocuments: boolean,
  section: Record<string, unknown>,
): ConfigProblem[] {
  if (!isJsonObject(job)) return [];
  const problems: ConfigProblem[] = [];
  const key = `eval.jobs.${at}`;
  const name = nameOf(job);
  if (jobs.slice(0, at).some((earlier) => isJsonObject(earlier) && nameOf(earlier) === name)) {
    problems.push(problem(`${key}.name`, `an earlier job is called ${name} too; give this one a name of its own`));
  }
  if (job.type === 'perplexity') {
    problems.push(...problemsOfSource(job.data, `${key}.data`));
    if ((job.data ?? null) === null && !hasDocuments) {
      problems.push(problem(`${key}.data`, 'missing, and so is data.eval; expected the documents to evaluate on'));
    }
  } else if (isJsonObject(job.data) && typeof job.data.path === 'string' && !existsSync(job.data.path)) {
    problems.push(problem(`${key}.data.path`, notFound(job.data.path)));
  }
  if (isJsonObject(job.gate)) problems.push(...gateProblems(job, job.gate, key, section));
  return problems;
}

function gateProblems(
  job: Record<string, unknown>,
  gate: Record<string, unknown>,
  key: string,
  { adapters, models }: Record<string, unknown>,
): ConfigProblem[] {
  if (Array.isArray(job.metrics) && !job.metrics.includes(gate.metric)) {
    return [problem(`${key}.gate.metric`, `the job does not compute ${gate.metric}; add it to the job's metrics`)];
  }
  return entriesOf(adapters).length + entriesOf(models).length > 0
    ? []
    : [problem(`${key}.gate`, 'there is nothing to hold against the base model; add eval.adapters or eval.models')];
}

function nameOf(job: Record<string, unknown>): unknown {
  return job.name ?? job.type;
}

function entriesOf(map: unknown): [string, unknown][] {
  return isJsonObject(map) ? Object.entries(map) : [];
}
