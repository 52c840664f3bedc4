// SPDX-License-Identifier: Apache-2.0
/** What an evaluation found: eval.json. */
import { createRequire } from 'node:module';
import type { EvalSection } from '../../src/config/eval_schema.ts';
import { type Difference, pairedDifferences, totalOf, type Units } from './bootstrap.ts';
import type { JobMetric, PreparedJob } from './job.ts';

/** A model that is measured. */
export interface Variant {
  name: string;
  kind: 'base' | 'adapter' | 'model';
  /** Folder or Hub id. */
  path: string;
}

/** A job with what each variant gave, in their order. */
export interface JobRun {
  job: PreparedJob;
  gate: { metric: string; max_regression: number } | null;
  results: { units: Units; seconds: number }[];
}

export interface MetricResult {
  name: string;
  value: number;
  /** From the base model; null for the base itself. */
  difference: Difference | null;
}

export interface VariantResult {
  variant: string;
  metrics: MetricResult[];
  seconds: number;
}

export interface GateResult {
  metric: string;
  max_regression: number;
  /** How much worse each variant is than the base; negative where it is better. */
  regressions: { variant: string; regression: number; passed: boolean }[];
  passed: boolean;
}

export interface JobReport {
  name: string;
  type: string;
  data: string;
  records: number;
  /** Tokens that carry loss; of a perplexity job. */
  tokens?: number;
  /** What the intervals draw: items, or windows of documents. */
  units: number;
  results: VariantResult[];
  gate: GateResult | null;
}

export interface EvalReport {
  /** This package's version. */
  mambatune: string;
  started_at: string;
  seconds: number;
  backend: string;
  matmul_precision: string;
  batch_size: number;
  window: number;
  seed: number;
  bootstrap_samples: number;
  confidence: number;
  variants: Variant[];
  jobs: JobReport[];
  /** Whether every gate holds. */
  passed: boolean;
}

type RunFacts = Pick<EvalReport, 'started_at' | 'seconds' | 'backend' | 'matmul_precision'> & { section: EvalSection };

/** @param variants the base model first */
export function reportOf(runs: readonly JobRun[], variants: readonly Variant[], facts: RunFacts): EvalReport {
  const { section, ...rest } = facts;
  const { version } = createRequire(import.meta.url)('mambatune/package.json') as { version: string };
  const names = variants.map(({ name }) => name);
  const jobs = runs.map((run) => jobReport(run, names, section));
  return {
    mambatune: version,
    ...rest,
    batch_size: section.batch_size,
    window: section.window,
    seed: section.seed,
    bootstrap_samples: section.bootstrap_samples,
    confidence: section.confidence,
    variants: [...variants],
    jobs,
    passed: jobs.every(({ gate }) => gate?.passed ?? true),
  };
}

function jobReport({ job, gate, results }: JobRun, variants: readonly string[], section: EvalSection): JobReport {
  const { name, type, data, records, tokens, metrics } = job;
  const [base, ...others] = results.map(({ units }) => units) as [Units, ...Units[]];
  const { bootstrap_samples: samples, confidence, seed } = section;
  const differences = pairedDifferences(base, others, metrics, { samples, confidence, seed });
  const rows = results.map(({ units, seconds }, at): VariantResult => {
    const sums = totalOf(units);
    return {
      variant: variants[at] as string,
      metrics: metrics.map((metric, column) => ({
        name: metric.name,
        value: metric.of(sums),
        difference: differences[at - 1]?.[column] ?? null,
      })),
      seconds,
    };
  });
  return {
    name,
    type,
    data,
    records,
    ...(tokens !== undefined && { tokens }),
    units: base.length,
    results: rows,
    gate: gate && gateResult(gate, metrics, rows.slice(1)),
  };
}

function gateResult(
  { metric: name, max_regression: allowed }: NonNullable<JobRun['gate']>,
  metrics: readonly JobMetric[],
  rows: readonly VariantResult[],
): GateResult {
  const column = metrics.findIndex((metric) => metric.name === name);
  const sign = metrics[column]?.higherIsBetter ? -1 : 1;
  const regressions = rows.map(({ variant, metrics: values }) => {
    const regression = sign * (values[column]?.difference?.value ?? Number.NaN);
    return { variant, regression, passed: regression <= allowed };
  });
  return {
    metric: name,
    max_regression: allowed,
    regressions,
    passed: regressions.every(({ passed }) => passed),
  };
}
