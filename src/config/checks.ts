// SPDX-License-Identifier: Apache-2.0
/** What a config's keys require of one another and of the disk. Works on a config that may have other faults too. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { looksLikeRepo } from '../hub.ts';
import { isJsonObject } from '../json.ts';
import { type ConfigProblem, notFound, problem } from './config_problem.ts';
import { evalProblems } from './eval_checks.ts';
import { problemsOfSource } from './source_checks.ts';

/**
 * The faults that no key shows by itself: keys that contradict or need each other, files that do not exist, settings that
 * nothing would obey.
 *
 * @param config the parsed YAML before defaults; of any shape.
 * @param purpose an evaluation does not look at what only training uses.
 */
export function crossFieldProblems(config: unknown, purpose: 'train' | 'eval'): ConfigProblem[] {
  const problems = [...modelProblems(config), ...problemsOfSource(get(config, 'data', 'eval'), 'data.eval')];
  if (purpose === 'eval') problems.push(...evalProblems(config));
  if (purpose === 'train') {
    problems.push(
      ...adapterProblems(config),
      ...problemsOfSource(get(config, 'data', 'train'), 'data.train'),
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
