// SPDX-License-Identifier: Apache-2.0
/** What a config's keys require of one another and of the disk. Works on a config that may have other faults too. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { looksLikeRepo } from '../hub.ts';
import { adapterSchema } from './adapter_schema.ts';
import { type ConfigProblem, get, notFound, problem } from './config_problem.ts';
import { evalProblems } from './eval_checks.ts';
import { problemsOfSource } from './source_checks.ts';
import { trainerProblems } from './trainer_checks.ts';

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
      ...trainerProblems(config),
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
  if (get(config, 'adapter', 'type') === 'full') return fullModelProblems(config);
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

/** A resolved config holds every key: what stands at its default asks for nothing. */
function fullModelProblems(config: unknown): ConfigProblem[] {
  const defaults: Record<string, unknown> = { ...adapterSchema.parse({}), type: 'full' };
  return Object.keys(defaults)
    .filter((key) => {
      const value = get(config, 'adapter', key);
      return value !== undefined && JSON.stringify(value) !== JSON.stringify(defaults[key]);
    })
    .map((key) => problem(`adapter.${key}`, 'type: full trains the model itself, without an adapter; remove this key'));
}
