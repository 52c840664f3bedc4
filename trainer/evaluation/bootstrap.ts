// SPDX-License-Identifier: Apache-2.0
/** Paired bootstrap (Efron 1979): intervals for differences of metrics between models that saw the same units. */
import { createRandom, randomStreams } from '../../src/random.ts';
import type { JobMetric } from './job.ts';

/** One row of statistics a unit. */
export type Units = readonly Float64Array[];

export interface Difference {
  /** Metric of the model less that of the base. */
  value: number;
  /** Percentile interval of it; null when there is one unit alone. */
  low: number | null;
  high: number | null;
}

export interface BootstrapOptions {
  samples: number;
  /** Probability that the intervals are to cover. */
  confidence: number;
  seed: number;
}

/** Sums of the statistics of all units. */
export function totalOf(units: Units): Float64Array {
  const sums = new Float64Array(units[0]?.length ?? 0);
  for (const unit of units) addTo(sums, unit);
  return sums;
}

/**
 * Differences of each model from the base. Each sample draws as many units as there are, with replacement, the same for all models.
 *
 * @param models units of each, aligned with the base's
 * @returns for each model, for each metric
 */
export function pairedDifferences(
  base: Units,
  models: readonly Units[],
  metrics: readonly JobMetric[],
  { samples, confidence, seed }: BootstrapOptions,
): Difference[][] {
  const uneven = models.find((units) => units.length !== base.length);
  if (uneven) throw new Error(`pairedDifferences: ${uneven.length} units against the base's ${base.length}`);
  const observed = differencesOf(totalOf(base), models.map(totalOf), metrics);
  const draws = base.length > 1 ? drawDifferences(base, models, metrics, samples, seed) : [];
  return observed.map((values, model) =>
    values.map((value, metric) => {
      if (draws.length === 0) return { value, low: null, high: null };
      const sorted = Float64Array.from(draws, (draw) => draw[model]?.[metric] as number).sort();
      const tail = (1 - confidence) / 2;
      return { value, low: quantile(sorted, tail), high: quantile(sorted, 1 - tail) };
    }),
  );
}

function drawDifferences(
  base: Units,
  models: readonly Units[],
  metrics: readonly JobMetric[],
  samples: number,
  seed: number,
): number[][][] {
  const random = createRandom({ seed, stream: randomStreams.bootstrap });
  const width = base[0]?.length ?? 0;
  return Array.from({ length: samples }, () => {
    const baseSums = new Float64Array(width);
    const modelSums = models.map(() => new Float64Array(width));
    for (let drawn = 0; drawn < base.length; drawn++) {
      const unit = random.below(base.length);
      addTo(baseSums, base[unit] as Float64Array);
      for (const [model, units] of models.entries())
        addTo(modelSums[model] as Float64Array, units[unit] as Float64Array);
    }
    return differencesOf(baseSums, modelSums, metrics);
  });
}

function differencesOf(base: Float64Array, models: readonly Float64Array[], metrics: readonly JobMetric[]): number[][] {
  return models.map((sums) => metrics.map((metric) => metric.of(sums) - metric.of(base)));
}

function addTo(sums: Float64Array, unit: Float64Array): void {
  for (let column = 0; column < sums.length; column++)
    sums[column] = (sums[column] as number) + (unit[column] as number);
}

/** Of sorted values, linear between neighbours. */
function quantile(sorted: Float64Array, share: number): number {
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  const [lower, upper] = [sorted[below] as number, sorted[Math.ceil(place)] as number];
  return lower + (place - below) * (upper - lower);
}
