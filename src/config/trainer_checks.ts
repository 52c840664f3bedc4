// SPDX-License-Identifier: Apache-2.0
/** What the trainer's keys require of one another. */
import { isJsonObject } from '../json.ts';
import { type ConfigProblem, get, isPositive, problem } from './config_problem.ts';
import { LR_SCHEDULE_KWARGS, type LrSchedulerType } from './lr_schedules.ts';

/** @param config the parsed YAML before defaults; of any shape */
export function trainerProblems(config: unknown): ConfigProblem[] {
  return [
    ...batchProblems(config),
    ...warmupProblems(config),
    ...loraplusProblems(config),
    ...scheduleProblems(config),
    ...strategyProblems(config, 'eval'),
    ...strategyProblems(config, 'save'),
    ...metricProblems(config),
    ...bestModelProblems(config),
    ...divergenceProblems(config),
    ...sampleProblems(config),
  ];
}

function loraplusProblems(config: unknown): ConfigProblem[] {
  const ratio = get(config, 'trainer', 'loraplus_lr_ratio') ?? null;
  const embedding = get(config, 'trainer', 'loraplus_lr_embedding') ?? 1e-6;
  if (ratio === null) {
    return embedding === 1e-6
      ? []
      : [problem('trainer.loraplus_lr_embedding', 'only loraplus_lr_ratio uses this, and it is not set')];
  }
  return get(config, 'adapter', 'type') === 'full'
    ? [problem('trainer.loraplus_lr_ratio', 'adapter.type: full has no lora_B to learn faster; remove one of the two')]
    : [];
}

const WITHOUT_WARMUP: readonly unknown[] = ['constant', 'reduce_lr_on_plateau'];

function batchProblems(config: unknown): ConfigProblem[] {
  if (get(config, 'trainer', 'group_by_length') !== true) return [];
  const key = 'trainer.group_by_length';
  if (get(config, 'data', 'packing') === true) {
    return [problem(key, 'rows of data.packing are of about one length already; remove one of the two')];
  }
  return get(config, 'data', 'shuffle') === false
    ? [problem(key, 'this changes the order of the records, and data.shuffle: false keeps it; remove one of the two')]
    : [];
}

function warmupProblems(config: unknown): ConfigProblem[] {
  const [longest, other] = ['warmup_steps', 'warmup_ratio'].filter((key) => isPositive(get(config, 'trainer', key)));
  if (longest === undefined) return [];
  if (other !== undefined) return [problem(`trainer.${longest}`, `${other} is set too; set one of them to 0`)];
  const type = get(config, 'trainer', 'lr_scheduler_type');
  if (!WITHOUT_WARMUP.includes(type)) return [];
  const hint = type === 'constant' ? 'use lr_scheduler_type: constant_with_warmup' : 'remove this key';
  return [problem(`trainer.${longest}`, `the ${type} schedule has no warm-up; ${hint}`)];
}

function scheduleProblems(config: unknown): ConfigProblem[] {
  const type = get(config, 'trainer', 'lr_scheduler_type') ?? 'linear';
  const kwargs = get(config, 'trainer', 'lr_scheduler_kwargs') ?? {};
  if (!isJsonObject(kwargs) || typeof type !== 'string' || !Object.hasOwn(LR_SCHEDULE_KWARGS, type)) return [];
  const taken: readonly string[] = LR_SCHEDULE_KWARGS[type as LrSchedulerType];
  const key = 'trainer.lr_scheduler_kwargs';
  const takes = taken.length === 0 ? 'none' : taken.join(', ');
  const problems = Object.keys(kwargs)
    .filter((name) => !taken.includes(name))
    .map((name) => problem(`${key}.${name}`, `the ${type} schedule does not use this; it takes ${takes}`));
  const isSet = (name: string) => kwargs[name] !== undefined;
  if (isSet('min_lr') && isSet('min_lr_rate')) {
    problems.push(problem(`${key}.min_lr`, 'min_lr_rate is set too; remove one of the two'));
  }
  if (type.endsWith('min_lr') && !isSet('min_lr') && !isSet('min_lr_rate')) {
    problems.push(
      problem('trainer.lr_scheduler_type', `${type} needs lr_scheduler_kwargs: {min_lr_rate: …} or {min_lr: …}`),
    );
  }
  if (type === 'warmup_stable_decay' && !isSet('num_decay_steps')) {
    problems.push(
      problem(
        'trainer.lr_scheduler_type',
        `${type} needs lr_scheduler_kwargs: {num_decay_steps: …}, the steps of the decay`,
      ),
    );
  }
  const peak = get(config, 'trainer', 'learning_rate') ?? 5e-5;
  for (const name of ['min_lr', 'lr_end']) {
    const rate = kwargs[name];
    if (taken.includes(name) && typeof rate === 'number' && typeof peak === 'number' && rate >= peak) {
      problems.push(
        problem(`${key}.${name}`, `found ${rate}; expected less than trainer.learning_rate, which is ${peak}`),
      );
    }
  }
  return problems;
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

/** What evaluations decide needs evaluations. */
function metricProblems(config: unknown): ConfigProblem[] {
  const value = (key: string) => get(config, 'trainer', key) ?? null;
  const users = {
    lr_scheduler_type: value('lr_scheduler_type') === 'reduce_lr_on_plateau',
    load_best_model_at_end: value('load_best_model_at_end') === true,
    early_stopping_patience: value('early_stopping_patience') !== null,
  };
  const [user] = Object.entries(users).flatMap(([key, isUsed]) => (isUsed ? [key] : []));
  if (user === undefined) {
    return ['metric_for_best_model', 'greater_is_better']
      .filter((key) => value(key) !== null)
      .map((key) => problem(`trainer.${key}`, `nothing uses this: it is for ${Object.keys(users).join(', ')}`));
  }
  if ((value('eval_strategy') ?? 'no') !== 'no') return [];
  return [problem(`trainer.${user}`, 'this goes by evaluations, and eval_strategy is no; set it to steps or epoch')];
}

function bestModelProblems(config: unknown): ConfigProblem[] {
  const value = (key: string) => get(config, 'trainer', key) ?? null;
  const problems: ConfigProblem[] = [];
  if (isPositive(value('early_stopping_threshold')) && value('early_stopping_patience') === null) {
    problems.push(
      problem('trainer.early_stopping_threshold', 'only early_stopping_patience uses this, and it is not set'),
    );
  }
  if (value('load_best_model_at_end') !== true) return problems;
  const [evaluates, saves] = [value('eval_strategy') ?? 'no', value('save_strategy') ?? 'epoch'];
  const [evalSteps, saveSteps] = [value('eval_steps'), value('save_steps')];
  if (evaluates !== 'no' && evaluates !== saves) {
    problems.push(
      problem(
        'trainer.load_best_model_at_end',
        `each evaluation needs its checkpoint: eval_strategy is ${evaluates} and save_strategy ${saves}; make them the same`,
      ),
    );
  } else if (typeof evalSteps === 'number' && typeof saveSteps === 'number' && evalSteps % saveSteps !== 0) {
    problems.push(
      problem(
        'trainer.load_best_model_at_end',
        `each evaluation needs its checkpoint: eval_steps, which is ${evalSteps}, must be a multiple of save_steps, which is ${saveSteps}`,
      ),
    );
  }
  return problems;
}

function divergenceProblems(config: unknown): ConfigProblem[] {
  const value = (key: string) => get(config, 'trainer', key) ?? null;
  const action = value('on_divergence') ?? 'stop';
  const problems: ConfigProblem[] = [];
  if (value('loss_watchdog_threshold') === null && value('loss_watchdog_patience') !== null) {
    problems.push(
      problem('trainer.loss_watchdog_patience', 'only loss_watchdog_threshold uses this, and it is not set'),
    );
  }
  if (value('loss_watchdog_threshold') !== null && action === 'skip') {
    problems.push(
      problem(
        'trainer.on_divergence',
        'a step whose loss loss_watchdog_threshold finds too high has been taken, and cannot be skipped; use stop or rollback',
      ),
    );
  }
  if (action === 'rollback' && value('save_strategy') === 'no') {
    problems.push(problem('trainer.on_divergence', 'rollback needs checkpoints, and save_strategy is no'));
  }
  return problems;
}

function sampleProblems(config: unknown): ConfigProblem[] {
  const prompts = get(config, 'trainer', 'sample_prompts') ?? null;
  const strategy = get(config, 'trainer', 'eval_strategy') ?? 'no';
  if (prompts === null || strategy !== 'no') return [];
  return [
    problem(
      'trainer.sample_prompts',
      'samples are written at evaluations, and eval_strategy is no; set it to steps or epoch',
    ),
  ];
}
