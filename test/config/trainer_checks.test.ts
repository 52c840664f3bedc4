// SPDX-License-Identifier: Apache-2.0
/** What the trainer's keys require of one another, in the words a person reads. */
import { describe, expect, it } from 'vitest';
import { schemaProblems } from '../../src/config/problems.ts';
import { runConfigSchema } from '../../src/config/schema.ts';
import { trainerProblems } from '../../src/config/trainer_checks.ts';

function problems(trainer: object): string[] {
  const config = { data: { eval: { path: 'x' } }, trainer };
  return trainerProblems(config).map(({ path, message }) => `${path.slice(1).join('.')}: ${message}`);
}

const evaluated = { eval_strategy: 'steps', eval_steps: 10, save_strategy: 'steps', save_steps: 5 };

describe('the trainer section', () => {
  it.each([
    [{}],
    [{ lr_scheduler_type: 'cosine', lr_scheduler_kwargs: { num_cycles: 2 }, warmup_ratio: 0.1 }],
    [{ lr_scheduler_type: 'cosine_with_min_lr', lr_scheduler_kwargs: { min_lr_rate: 0.1 } }],
    [{ lr_scheduler_type: 'warmup_stable_decay', lr_scheduler_kwargs: { num_decay_steps: 3 } }],
    [{ ...evaluated, load_best_model_at_end: true, early_stopping_patience: 2, early_stopping_threshold: 0.1 }],
    [{ ...evaluated, lr_scheduler_type: 'reduce_lr_on_plateau', metric_for_best_model: 'perplexity' }],
    [{ on_divergence: 'rollback', loss_watchdog_threshold: 5, loss_watchdog_patience: 2 }],
  ])('agrees: %j', (trainer) => {
    expect(problems(trainer)).toEqual([]);
  });

  it.each([
    [
      { lr_scheduler_kwargs: { power: 2 } },
      'lr_scheduler_kwargs.power: the linear schedule does not use this; it takes none',
    ],
    [
      { lr_scheduler_type: 'polynomial', lr_scheduler_kwargs: { num_cycles: 2 } },
      'lr_scheduler_kwargs.num_cycles: the polynomial schedule does not use this; it takes lr_end, power',
    ],
    [
      { lr_scheduler_type: 'polynomial', lr_scheduler_kwargs: { lr_end: 0.1 } },
      'lr_scheduler_kwargs.lr_end: found 0.1; expected less than trainer.learning_rate, which is 0.00005',
    ],
    [
      {
        lr_scheduler_type: 'cosine_with_min_lr',
        learning_rate: 1,
        lr_scheduler_kwargs: { min_lr: 0.1, min_lr_rate: 0.1 },
      },
      'lr_scheduler_kwargs.min_lr: min_lr_rate is set too; remove one of the two',
    ],
    [
      { lr_scheduler_type: 'cosine_warmup_with_min_lr' },
      'lr_scheduler_type: cosine_warmup_with_min_lr needs lr_scheduler_kwargs: {min_lr_rate: …} or {min_lr: …}',
    ],
    [
      { lr_scheduler_type: 'warmup_stable_decay' },
      'lr_scheduler_type: warmup_stable_decay needs lr_scheduler_kwargs: {num_decay_steps: …}, the steps of the decay',
    ],
    [
      { ...evaluated, lr_scheduler_type: 'reduce_lr_on_plateau', warmup_steps: 3 },
      'warmup_steps: the reduce_lr_on_plateau schedule has no warm-up; remove this key',
    ],
    [
      { early_stopping_patience: 3 },
      'early_stopping_patience: this goes by evaluations, and eval_strategy is no; set it to steps or epoch',
    ],
    [
      { greater_is_better: true },
      'greater_is_better: nothing uses this: it is for lr_scheduler_type, load_best_model_at_end, early_stopping_patience',
    ],
    [
      { early_stopping_threshold: 0.1 },
      'early_stopping_threshold: only early_stopping_patience uses this, and it is not set',
    ],
    [
      { load_best_model_at_end: true, eval_strategy: 'steps', eval_steps: 3 },
      'load_best_model_at_end: each evaluation needs its checkpoint: eval_strategy is steps and save_strategy epoch; make them the same',
    ],
    [
      { ...evaluated, save_steps: 20, load_best_model_at_end: true },
      'load_best_model_at_end: each evaluation needs its checkpoint: eval_steps, which is 10, must be a multiple of save_steps, which is 20',
    ],
    [
      { loss_watchdog_patience: 2 },
      'loss_watchdog_patience: only loss_watchdog_threshold uses this, and it is not set',
    ],
    [
      { loss_watchdog_threshold: 2, on_divergence: 'skip' },
      'on_divergence: a step whose loss loss_watchdog_threshold finds too high has been taken, and cannot be skipped; use stop or rollback',
    ],
    [
      { sample_prompts: ['a'] },
      'sample_prompts: samples are written at evaluations, and eval_strategy is no; set it to steps or epoch',
    ],
    [
      { on_divergence: 'rollback', save_strategy: 'no' },
      'on_divergence: rollback needs checkpoints, and save_strategy is no',
    ],
  ])('does not agree: %j', (trainer, message) => {
    expect(problems(trainer)).toEqual([message]);
  });

  it('refuses greedy with the reason', () => {
    const config = { trainer: { output_dir: 'x', lr_scheduler_type: 'greedy' } };
    const parsed = runConfigSchema.pick({ trainer: true }).safeParse(config);
    expect(schemaProblems(parsed.error?.issues ?? [], config)).toEqual([
      { path: ['trainer', 'lr_scheduler_type'], message: expect.stringMatching(/^greedy raises the rate/) },
    ]);
  });
});
