// SPDX-License-Identifier: Apache-2.0
/** A run in TensorBoard, under the tags that transformers' Trainer gives: its metrics, samples, adapter norms and settings. */
import { createEventWriter, type EventWriter } from '../src/logging/tensorboard/event_writer.ts';
import type { HparamValue } from '../src/logging/tensorboard/summaries.ts';
import type { Metrics, MetricsLog, NormMetrics } from './metrics.ts';

export interface TensorboardOptions {
  /** The run's settings; those that are null are left out, lists are joined. */
  settings: Readonly<Record<string, unknown>>;
  /** Content of config.yaml. */
  configText?: string;
}

/** The scalars that the HPARAMS page compares runs by. */
const COMPARED = ['train/loss', 'eval/loss', 'train/tokens_per_second'];

/**
 * Logs to an event file in a folder, a further one after each `rewind`: readers forget what earlier files hold beyond that step.
 * @throws UserError when one cannot be written
 */
export function createTensorboardLog(folder: string, options: TensorboardOptions): MetricsLog {
  const { settings, configText } = options;
  let current: EventWriter | undefined;
  const open = (purgeStep?: number): EventWriter => {
    const writer = createEventWriter(folder, purgeStep === undefined ? {} : { purgeStep });
    writer.hparams(hparamsOf(settings), COMPARED);
    if (configText !== undefined) writer.text(0, 'config', verbatim(configText));
    current = writer;
    return writer;
  };
  return {
    write: (metrics) => record(current ?? open(), metrics),
    sync: () => 0,
    rewind: (_, step) => {
      current?.close();
      open(step + 1);
      return true;
    },
    close: (status) => (current ?? open()).close(status === 'failed' ? 'failure' : 'success'),
  };
}

function record(writer: EventWriter, metrics: Metrics): void {
  if ('adapter_norms' in metrics) recordNorms(writer, metrics);
  else if ('samples' in metrics) {
    for (const [i, { prompt, completion }] of metrics.samples.entries()) {
      writer.text(metrics.step, `samples/${i}`, `${verbatim(prompt)}\n\n---\n\n${verbatim(completion)}`);
    }
  } else if ('eval_loss' in metrics) {
    const { step, epoch: _, ...figures } = metrics;
    writer.scalars(step, inGroup('eval', figures));
  } else {
    const { step, ...figures } = metrics;
    writer.scalars(step, inGroup('train', figures));
  }
}

/** eval_loss of group eval is eval/loss. */
function inGroup(group: 'train' | 'eval', figures: Readonly<Record<string, number>>): Record<string, number> {
  return Object.fromEntries(
    Object.entries(figures).map(([key, value]) => [`${group}/${key.replace(/^eval_/, '')}`, value]),
  );
}

/** A distribution over the layers for each kind of module. */
function recordNorms(writer: EventWriter, { step, adapter_norms: norms }: NormMetrics): void {
  const kinds = new Map<string, number[]>();
  for (const [name, { norm }] of Object.entries(norms)) {
    const kind = name.slice(name.lastIndexOf('.') + 1);
    kinds.set(kind, [...(kinds.get(kind) ?? []), norm]);
  }
  for (const [kind, values] of kinds) writer.histogram(step, `adapter_norms/${kind}`, values);
}

function verbatim(text: string): string {
  return text.replace(/^/gm, '    ');
}

function hparamsOf(settings: Readonly<Record<string, unknown>>): Record<string, HparamValue> {
  const hparams: Record<string, HparamValue> = {};
  for (const [name, value] of Object.entries(settings)) {
    if (value === null || value === undefined) continue;
    const isPlain = typeof value === 'number' || typeof value === 'boolean' || typeof value === 'string';
    hparams[name] = isPlain ? value : Array.isArray(value) ? value.join(', ') : JSON.stringify(value);
  }
  return hparams;
}
