// SPDX-License-Identifier: Apache-2.0
/** A planned run as a person reads it. */
import type { DryRun } from '../../trainer/index.ts';
import { formatBytes, formatCount, formatDuration } from '../logging/format.ts';

export function formatDryRun(plan: DryRun): string {
  const sections = [stepLines(plan), moduleLines(plan), memoryLines(plan), timeLines(plan)];
  return `${sections
    .filter((lines) => lines.length > 0)
    .map((lines) => lines.join('\n'))
    .join('\n\n')}\n`;
}

function stepLines(plan: DryRun): string[] {
  const { batch, seqlen } = plan.largest_batch;
  return table([
    ['backend', plan.backend],
    ['steps', `${formatCount(plan.steps)} (${formatCount(plan.steps_per_epoch)} an epoch)`],
    ['epochs', plan.epochs.toFixed(2)],
    ['rows', formatCount(plan.rows)],
    ['tokens', `${formatCount(plan.tokens)} (${formatCount(plan.tokens_per_epoch)} an epoch)`],
    ['padding', `${(100 * plan.padding).toFixed(1)} % of the batches`],
    ['largest batch', `${batch}x${seqlen}`],
  ]);
}

/** Modules of one kind together: in_proj of all layers. */
function moduleLines({ modules, trainable, all }: DryRun): string[] {
  const kinds = new Map<string, { parameters: number; count: number }>();
  for (const { name, parameters } of modules) {
    const kind = name.split('.').at(-1) ?? name;
    const sum = kinds.get(kind) ?? { parameters: 0, count: 0 };
    kinds.set(kind, { parameters: sum.parameters + parameters, count: sum.count + 1 });
  }
  const share = (parameters: number, of: number) => `${((100 * parameters) / of).toFixed(2)} %`;
  return [
    `trainable parameters: ${formatCount(trainable)} of ${formatCount(all)} (${share(trainable, all)})`,
    ...table(
      Array.from(kinds, ([kind, { parameters, count }]) => [
        `  ${kind}`,
        `${formatCount(parameters)}  ${share(parameters, trainable)}  in ${count} ${count === 1 ? 'module' : 'modules'}`,
      ]),
    ),
  ];
}

function memoryLines({ memory }: DryRun): string[] {
  if (!memory) return ['memory: not known without the native addon; npm run build:native builds it'];
  const { peak_bytes, ...parts } = memory;
  return [
    `memory at its peak, on the native CPU backend: ${formatBytes(peak_bytes)}`,
    ...table(Object.entries(parts).map(([name, bytes]) => [`  ${name.replaceAll('_', ' ')}`, formatBytes(bytes)])),
  ];
}

function timeLines({ time, steps }: DryRun): string[] {
  if (!time) return [];
  const each = `${time.seconds_per_step.toFixed(2)} s a step`;
  return [
    `time: ${formatDuration(time.seconds)} for ${formatCount(steps)} steps (${each}, from ${time.timed_steps} that were timed), without evaluation`,
  ];
}

function table(rows: string[][]): string[] {
  const width = Math.max(...rows.map(([name = '']) => name.length)) + 2;
  return rows.map(([name = '', value]) => `${name.padEnd(width)}${value}`);
}
