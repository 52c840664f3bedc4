// SPDX-License-Identifier: Apache-2.0
/** What a run was made of, as rows of names and values. */
import { parse } from 'yaml';
import { isJsonObject } from '../../json.ts';
import { formatBytes, formatCount, formatDuration, formatNumber } from '../format.ts';
import type { RunReport } from './read_run.ts';

export type Fact = readonly [name: string, value: string];

/** A large figure at the top of a page. */
export interface Headline {
  name: string;
  value: string;
  detail: string;
}

export function headlines(run: RunReport): Headline[] {
  const { training, evaluations } = run;
  const [firstEval, lastEval] = [evaluations[0], evaluations.at(-1)];
  const [first, last] = [training[0], training.at(-1)];
  const seconds = get(run.record, 'result', 'seconds');
  const shown: Headline[] = [];
  const show = (name: string, value: string, detail = '') => shown.push({ name, value, detail });
  if (firstEval && lastEval) {
    const since =
      firstEval === lastEval ? '' : `${formatLoss(firstEval.eval_loss)} at step ${formatCount(firstEval.step)}`;
    show('evaluation loss', formatLoss(lastEval.eval_loss), since);
    show('perplexity', formatMaybe(lastEval.eval_perplexity), 'of the evaluation');
  }
  if (!first || !last) return shown;
  const since = first === last ? '' : `${formatLoss(first.loss)} at step ${formatCount(first.step)}`;
  show('training loss', formatLoss(last.loss), since);
  show('steps', formatCount(last.step), `${formatNumber(last.epoch)} epochs`);
  show('tokens a second', formatMaybe(meanSpeed(run)), `${formatCount(last.tokens)} in all`);
  if (typeof seconds === 'number') show('time', formatDuration(seconds), 'evaluations with it');
  show('peak memory', formatBytes(Math.max(...training.map((line) => line.peak_memory_bytes))));
  return shown;
}

/** One line under the title. */
export function subtitle({ record, config }: RunReport): string {
  const settings = settingsOf(config);
  const parts = [
    get(record, 'model', 'name'),
    settings.has('adapter.type') && `${settings.get('adapter.type')}, r = ${settings.get('adapter.r')}`,
    get(record, 'data', 'train', 'name'),
    moment(get(record, 'started_at')),
  ];
  return parts.filter((part) => typeof part === 'string').join(' · ');
}

/** Everything of run.json that a person may ask for. */
export function facts({ record, folder }: RunReport): Fact[] {
  const trainable = get(record, 'result', 'trainable');
  const all = get(record, 'result', 'all');
  const rows: [string, unknown][] = [
    ['folder', folder],
    ['started', moment(get(record, 'started_at'))],
    ['ended', moment(get(record, 'finished_at'))],
    ['model', get(record, 'model', 'name')],
    ['revision', get(record, 'model', 'revision')],
    ['adapter started from', get(record, 'init_from', 'folder')],
    [
      'trainable parameters',
      typeof trainable === 'number' && typeof all === 'number'
        ? `${formatCount(trainable)} of ${formatCount(all)} (${((100 * trainable) / all).toFixed(2)} %)`
        : null,
    ],
    ['training data', dataset(get(record, 'data', 'train'))],
    ['evaluation data', dataset(get(record, 'data', 'eval'))],
    ['backend', get(record, 'backend')],
    ['machine', entries(get(record, 'machine'))],
    ['versions', [`mambatune ${get(record, 'mambatune')}`, entries(get(record, 'versions'))].join(', ')],
    ['weights, SHA-256', get(record, 'model', 'sha256', 'model.safetensors')],
    ['training data, SHA-256', get(record, 'data', 'train', 'sha256')],
  ];
  return rows.flatMap(([name, value]) => (typeof value === 'string' && value !== '' ? [[name, value] as const] : []));
}

/** Each key of a config with its value, as dotted.key; empty for a run that no config describes. */
export function settingsOf(config: string | null): Map<string, string> {
  const settings = new Map<string, string>();
  const visit = (value: unknown, path: string) => {
    if (isJsonObject(value)) {
      for (const [key, item] of Object.entries(value)) visit(item, path === '' ? key : `${path}.${key}`);
    } else settings.set(path, Array.isArray(value) ? value.join(', ') : String(value));
  };
  if (config !== null) visit(parse(config, { maxAliasCount: 0 }), '');
  return settings;
}

/** Over the whole of training, without what was not training. */
export function meanSpeed({ training }: RunReport): number | null {
  let tokens = 0;
  let seconds = 0;
  for (const [i, line] of training.entries()) {
    const own = line.tokens - (training[i - 1]?.tokens ?? 0);
    if (line.tokens_per_second === null || !(line.tokens_per_second > 0)) continue;
    tokens += own;
    seconds += own / line.tokens_per_second;
  }
  return seconds > 0 ? tokens / seconds : null;
}

/** A value deep in an object of any shape; undefined when it is not there. */
export function get(value: unknown, ...path: readonly string[]): unknown {
  return path.reduce<unknown>((part, key) => (isJsonObject(part) ? part[key] : undefined), value);
}

export function formatLoss(loss: number | null | undefined): string {
  return loss === null || loss === undefined ? 'not finite' : loss.toFixed(3);
}

export function formatMaybe(value: number | null): string {
  return value === null ? 'not finite' : formatNumber(value);
}

/** 2026-11-24T07:36:59.584Z as 2026-11-24 07:36 UTC */
function moment(value: unknown): string | null {
  return typeof value === 'string' ? value.replace(/^(.{10})T(.{5}).*Z$/, '$1 $2 UTC') : null;
}

function dataset(value: unknown): string | null {
  if (!isJsonObject(value)) return null;
  const count = (key: string) => formatCount(Number(value[key]));
  return `${value.name}: ${count('examples')} examples, ${count('tokens')} tokens, ${count('loss_tokens')} with loss`;
}

function entries(value: unknown): string {
  if (!isJsonObject(value)) return '';
  return Object.entries(value)
    .map(([key, item]) =>
      key.endsWith('_bytes') ? `${formatBytes(Number(item))} of ${key.slice(0, -6)}` : `${key} ${item}`,
    )
    .join(', ');
}
