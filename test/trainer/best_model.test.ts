// SPDX-License-Identifier: Apache-2.0
/** Which evaluation is the best, and when patience is over, as EarlyStoppingCallback of transformers counts. */
import { describe, expect, it } from 'vitest';
import { runConfigSchema } from '../../src/config/schema.ts';
import { createBestModel } from '../../trainer/best_model.ts';
import type { TrainerSettings } from '../../trainer/training_job.ts';

function settings(changes: object): TrainerSettings {
  return runConfigSchema.shape.trainer.parse({ output_dir: 'x', ...changes });
}

/** The best step, and the step after which patience is over. */
function follow(changes: object, metrics: readonly number[]): [best: number | null, end: number | null] {
  const best = createBestModel(settings(changes));
  for (const [i, metric] of metrics.entries()) {
    best.observe(i + 1, metric);
    if (best.isPatienceOver()) return [best.state().best_global_step, i + 1];
  }
  return [best.state().best_global_step, null];
}

describe('createBestModel', () => {
  it('takes the lowest, the first of equals, and never stops without a patience', () => {
    expect(follow({}, [3, 2, 2, 4, 5, 6])).toEqual([2, null]);
  });

  it('takes the greatest where greater is better', () => {
    expect(follow({ greater_is_better: true, early_stopping_patience: 2 }, [3, 5, 4, 4, 9])).toEqual([2, 4]);
  });

  it('counts an improvement only beyond the threshold, against the best there is', () => {
    const changes = { early_stopping_patience: 3, early_stopping_threshold: 0.5 };
    expect(follow(changes, [5, 4.8, 4.6, 4.4, 4.2])).toEqual([4, 4]);
    expect(follow(changes, [5, 4.4, 3.8, 3.2, 2.6])).toEqual([5, null]);
  });

  it('never takes NaN', () => {
    expect(follow({ early_stopping_patience: 2 }, [Number.NaN, 3, Number.NaN, Number.NaN])).toEqual([2, 4]);
  });

  it('goes by the metric that is named, with transformers’ short names too', () => {
    const evaluation = { loss: 2, perplexity: 7.4, tokens: 1, examples: 1, seconds: 1 };
    expect(createBestModel(settings({})).metricOf(evaluation)).toBe(2);
    const best = createBestModel(settings({ metric_for_best_model: 'perplexity' }));
    expect([best.metricName, best.metricOf(evaluation)]).toEqual(['eval_perplexity', 7.4]);
  });
});
