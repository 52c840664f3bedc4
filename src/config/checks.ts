// SPDX-License-Identifier: Apache-2.0
/** What a config's keys require of one another and of the disk. Works on a config that may have other faults too. */
import { existsSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { looksLikeRepo } from '../hub.ts';
import { isJsonObject } from '../json.ts';

/** What is wrong, and the keys that lead to it. */
export interface ConfigProblem {
  path: readonly PropertyKey[];
  message: string;
}

/**
 * The faults that no key shows by itself: keys that contradict or need each other, files that do not exist, settings that
 * nothing would obey.
 *
 * @param config the parsed YAML before defaults; of any shape.
 * @param purpose an evaluation does not look at what only training uses.
 */
export function crossFieldProblems(config: unknown, purpose: 'train' | 'eval'): ConfigProblem[] {
  const problems = [...modelProblems(config), ...sourceProblems(config, 'eval')];
  if (purpose === 'train') {
    problems.push(
      ...adapterProblems(config),
      ...sourceProblems(config, 'train'),
      ...warmupProblems(config),
      ...strategyProblems(config, 'eval'),
      ...strategyProblems(config, 'save'),
    );
  }
  return problems;
}

function modelProblems(config: unknown): ConfigProblem[] {
  const path = get(config, 'model', 'path');
  const revision = get(config, 'model', 'revision');
  if (typeof path !== 'string') return [];
  if (existsSync(path)) {
    return typeof revision === 'string' && revision !== 'main'
      ? [
          problem(
            'model.revision',
            `${JSON.stringify(path)} is a local folder, which has no revisions; remove this key`,
          ),
        ]
      : [];
  }
  return looksLikeRepo(path) ? [] : [problem('model.path', `${notFound(path)}, and it is no Hub id (owner/name)`)];
}

function adapterProblems(config: unknown): ConfigProblem[] {
  const folder = get(config, 'adapter', 'init_from');
  if (typeof folder !== 'string') return [];
  const problems: ConfigProblem[] = [];
  if (!existsSync(join(folder, 'adapter_config.json'))) {
    problems.push(
      problem(
        'adapter.init_from',
        `${notFound(join(folder, 'adapter_config.json'))}; expected the folder of a PEFT adapter`,
      ),
    );
  }
  const init = get(config, 'adapter', 'init_lora_weights');
  if (init !== undefined && init !== true) {
    problems.push(
      problem('adapter.init_lora_weights', 'the weights come from adapter.init_from; remove one of the two'),
    );
  }
  return problems;
}

function sourceProblems(config: unknown, part: 'train' | 'eval'): ConfigProblem[] {
  const source = get(config, 'data', part);
  if (!isJsonObject(source)) return [];
  const key = `data.${part}`;
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

function warmupProblems(config: unknown): ConfigProblem[] {
  const [longest, other] = ['warmup_steps', 'warmup_ratio'].filter((key) => isPositive(get(config, 'trainer', key)));
  if (longest === undefined) return [];
  if (other !== undefined) return [problem(`trainer.${longest}`, `${other} is set too; set one of them to 0`)];
  return get(config, 'trainer', 'lr_scheduler_type') === 'constant'
    ? [
        problem(
          `trainer.${longest}`,
          'the constant schedule has no warm-up; use lr_scheduler_type: constant_with_warmup',
        ),
      ]
    : [];
}

function strategyProblems(config: unknown, action: 'eval' | 'save'): ConfigProblem[] {
  const defaults = { eval: 'no', save: 'epoch' } as const;
  const strategy = get(config, 'trainer', `${action}_strategy`) ?? defaults[action];
  const steps = get(config, 'trainer', `${action}_steps`) ?? null;
  const problems: ConfigProblem[] = [];
  if (strategy === 'steps' && steps === null) {
    problems.push(
      problem(`trainer.${action}_strategy`, `steps needs trainer.${action}_steps, the number of steps between`),
    );
  }
  if (strategy !== 'steps' && steps !== null) {
    problems.push(
      problem(`trainer.${action}_steps`, `only ${action}_strategy: steps uses this, and it is ${strategy}`),
    );
  }
  if (action === 'eval' && strategy !== 'no' && (get(config, 'data', 'eval') ?? null) === null) {
    problems.push(problem('trainer.eval_strategy', `${strategy} needs data.eval, the records to evaluate on`));
  }
  if (action === 'save' && strategy === 'no' && (get(config, 'trainer', 'save_total_limit') ?? null) !== null) {
    problems.push(problem('trainer.save_total_limit', 'save_strategy: no saves no checkpoint; remove one of the two'));
  }
  return problems;
}

function get(config: unknown, section: string, key: string): unknown {
  const part = isJsonObject(config) ? config[section] : undefined;
  return isJsonObject(part) ? part[key] : undefined;
}

function isPositive(value: unknown): boolean {
  return typeof value === 'number' && value > 0;
}

function notFound(path: string): string {
  return `there is no ${JSON.stringify(path)} (looked at ${resolve(path)}; paths are relative to the current directory)`;
}

function problem(key: string, message: string): ConfigProblem {
  return { path: key.split('.'), message };
}
