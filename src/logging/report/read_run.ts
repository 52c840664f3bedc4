// SPDX-License-Identifier: Apache-2.0
/** What a run folder says of its run, for the report: files that may be those of a run still going, stopped or failed. */
import { existsSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { z } from 'zod';
import { UserError } from '../../errors.ts';
import { readJsonFile, readTextFile } from '../../files.ts';
import { findJsonFault, isJsonObject, parseJson } from '../../json.ts';

/** JSON has no NaN and no infinity: null stands for them. */
const measured = z.number().nullable();
const step = z.int().min(0);

const trainLine = z.object({
  step,
  epoch: z.number(),
  loss: measured,
  grad_norm: measured,
  learning_rate: z.number(),
  tokens: z.number(),
  tokens_per_second: measured,
  peak_memory_bytes: z.number(),
});
const evalLine = z.object({ step, epoch: z.number(), eval_loss: measured, eval_perplexity: measured });
const normLine = z.object({
  step,
  adapter_norms: z.record(z.string(), z.object({ norm: measured, relative: measured })),
});
const sampleLine = z.object({
  step,
  samples: z.array(z.object({ prompt: z.string(), completion: z.string() })),
});
const coverageRows = z.array(
  z.object({ name: z.string(), shape: z.array(z.number()), grad_norm: measured, step: step.nullable() }),
);

export type TrainLine = z.output<typeof trainLine>;
export type EvalLine = z.output<typeof evalLine>;
export type NormLine = z.output<typeof normLine>;
export type SampleLine = z.output<typeof sampleLine>;
export type CoverageRows = z.output<typeof coverageRows>;

export interface RunReport {
  /** As it was named. */
  folder: string;
  /** For the page: the folder's last part. */
  name: string;
  /** run.json */
  record: Readonly<Record<string, unknown>>;
  /** metrics.jsonl, by kind of line. */
  training: TrainLine[];
  evaluations: EvalLine[];
  norms: NormLine[];
  samples: SampleLine[];
  coverage: CoverageRows;
  /** config.yaml; null when no config describes the run. */
  config: string | null;
}

/**
 * Reads a run folder.
 * @throws UserError when it is none, or one of its files is damaged, with the file and the line
 */
export function readRun(folder: string): RunReport {
  const recordPath = join(folder, 'run.json');
  if (!existsSync(recordPath)) {
    throw new UserError(
      `${folder}: found no run.json; expected the folder of a run (trainer.output_dir of its config).`,
    );
  }
  const record = readJsonFile(recordPath);
  const { logging_dir: loggingDir = folder } = record;
  const coverage = join(folder, 'coverage.json');
  const config = join(folder, 'config.yaml');
  return {
    folder,
    name: basename(resolve(folder)),
    record,
    ...readMetrics(join(String(loggingDir), 'metrics.jsonl')),
    coverage: existsSync(coverage) ? checked(coverageRows, parseJson(readTextFile(coverage), coverage), coverage) : [],
    config: existsSync(config) ? readTextFile(config) : null,
  };
}

/** The lines of metrics.jsonl; one without its line break at the end is still being written, and left out. */
function readMetrics(path: string): Pick<RunReport, 'training' | 'evaluations' | 'norms' | 'samples'> {
  const metrics: ReturnType<typeof readMetrics> = { training: [], evaluations: [], norms: [], samples: [] };
  if (!existsSync(path)) return metrics;
  const lines = readTextFile(path).split('\n').slice(0, -1);
  for (const [index, text] of lines.entries()) {
    const where = `${path}:${index + 1}`;
    const fault = findJsonFault(text);
    if (fault) throw new UserError(`${where}:${fault.offset + 1}: this is not valid JSON: ${fault.message}.`);
    const line: unknown = JSON.parse(text);
    if (!isJsonObject(line)) throw new UserError(`${where}: found ${text.slice(0, 40)}; expected a JSON object.`);
    if ('loss' in line) metrics.training.push(checked(trainLine, line, where));
    else if ('eval_loss' in line) metrics.evaluations.push(checked(evalLine, line, where));
    else if ('adapter_norms' in line) metrics.norms.push(checked(normLine, line, where));
    else if ('samples' in line) metrics.samples.push(checked(sampleLine, line, where));
  }
  return metrics;
}

function checked<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const { success, data, error } = schema.safeParse(value);
  if (success) return data;
  const [issue] = error.issues;
  throw new UserError(`${where}: ${issue?.path.join('.')}: ${issue?.message}.`);
}
