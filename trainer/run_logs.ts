// SPDX-License-Identifier: Apache-2.0
/** Where a run's metrics go, as its logging section says, and when its adapter's norms are among them. */
import { join } from 'node:path';
import { openJsonLines } from './json_lines.ts';
import type { Metrics, MetricsLog } from './metrics.ts';
import { createTensorboardLog } from './tensorboard.ts';
import type { TrainingJob } from './training_job.ts';

/** Options of the adapter among a run's hyperparameters; a whole model has its type alone. */
const SHOWN_OPTIONS = ['type', 'r', 'lora_alpha', 'lora_dropout', 'target_modules', 'use_rslora', 'use_dora'];

/**
 * Opens metrics.jsonl, new or for a resumed run to go on with, and with `logging.tensorboard` an event file in tensorboard/.
 * @throws UserError when they cannot be written
 */
export function openLogs(job: TrainingJob): MetricsLog[] {
  const { loggingDir, settings, logging, trained, facts, configText, claimed } = job;
  const { output_dir: outputDir, ...arguments_ } = settings;
  const folder = loggingDir ?? outputDir;
  const metrics = openJsonLines<Metrics>(join(folder, 'metrics.jsonl'));
  if (!claimed.checkpoint) metrics.rewind(0);
  const logs: MetricsLog[] = [metrics];
  if (logging.tensorboard) {
    const options = trained.config.toJSON();
    const adapter = Object.fromEntries(
      SHOWN_OPTIONS.flatMap((name) => (Object.hasOwn(options, name) ? [[name, options[name]]] : [])),
    );
    logs.push(
      createTensorboardLog(join(folder, 'tensorboard'), {
        settings: { model: facts.model.name, ...adapter, ...arguments_ },
        configText,
      }),
    );
  }
  return logs;
}

/** Lines of adapter norms that a run has, at most: they are for pictures. */
const NORM_LINES = 20;

/** Whether the norms of the adapter are to be recorded after `step` of `totalSteps` steps. */
export function normsAreDue(step: number, totalSteps: number): boolean {
  return step === totalSteps || step % Math.ceil(totalSteps / NORM_LINES) === 0;
}
