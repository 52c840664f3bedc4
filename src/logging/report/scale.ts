// SPDX-License-Identifier: Apache-2.0
/** Axes and curves of the report's charts: ranges, ticks, smoothing, fewer points. */
import { formatCount, formatNumber } from '../format.ts';

export interface Point {
  x: number;
  y: number;
}

export interface Scale {
  low: number;
  high: number;
  isLog: boolean;
  ticks: number[];
  /** 0 at the low end, 1 at the high one. */
  place(value: number): number;
}

/** A scale over some values, which ends at round numbers on request. */
export function createScale(values: readonly number[], options: { isLog?: boolean; pad?: boolean } = {}): Scale {
  const isLog = options.isLog ?? false;
  let low = values.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
  let high = values.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  if (!Number.isFinite(low)) [low, high] = [0, 1];
  if (options.pad) [low, high] = isLog ? [low / 1.15, high * 1.15] : padded(low, high);
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const place = isLog
    ? (value: number) => Math.log(value / low) / Math.log(high / low)
    : (value: number) => (value - low) / (high - low);
  return { low, high, isLog, ticks: isLog ? logTicks(low, high) : linearTicks(low, high), place };
}

/** Some room above and below; from zero when that is near. */
function padded(low: number, high: number): [number, number] {
  const room = high > low ? 0.06 * (high - low) : 0.1 * Math.abs(high);
  const fromZero = low >= 0 && low - room < 0.25 * high;
  return [fromZero ? 0 : low - room, high + room];
}

const MOST_TICKS = 6;

function linearTicks(low: number, high: number): number[] {
  const rough = (high - low) / MOST_TICKS;
  const magnitude = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map((factor) => factor * magnitude).find((candidate) => candidate >= rough) ?? rough;
  const first = Math.ceil(low / size - 1e-9);
  const count = Math.floor(high / size - first + 1e-9) + 1;
  return Array.from({ length: count }, (_, i) => Number(((first + i) * size).toPrecision(12)));
}

function logTicks(low: number, high: number): number[] {
  const decades = Math.log10(high / low);
  const factors = decades > 3 ? [1] : decades > 1.5 ? [1, 3] : [1, 2, 5];
  const ticks: number[] = [];
  for (let exponent = Math.floor(Math.log10(low)); exponent <= Math.log10(high); exponent++) {
    ticks.push(...factors.map((factor) => Number((factor * 10 ** exponent).toPrecision(12))));
  }
  return ticks.filter((tick) => tick >= low && tick <= high);
}

/** Labels of linear ticks, all with the same number of decimals; powers of ten where that would be many. */
export function tickLabels({ ticks, isLog }: Scale): string[] {
  const [first = 0, second = first] = ticks;
  const decimals = (String(Number((second - first).toPrecision(3))).split('.')[1] ?? '').length;
  const largest = Math.max(...ticks.map(Math.abs));
  if (isLog || decimals > 4 || second - first < 1e-4) return ticks.map(formatNumber);
  return ticks.map((tick) => (largest >= 1000 ? formatCount(tick) : tick.toFixed(decimals)));
}

/** Whether a few values dwarf the others so that only a logarithmic axis shows them all. */
export function needsLog(values: readonly number[]): boolean {
  const sorted = [...values].sort((a, b) => a - b);
  const [least, median, most] = [sorted[0], sorted[sorted.length >> 1], sorted.at(-1)];
  return least !== undefined && median !== undefined && most !== undefined && least > 0 && most > 6 * median;
}

/** At most `limit` points: means over equal shares of the points. */
export function thin(points: readonly Point[], limit: number): Point[] {
  if (points.length <= limit) return [...points];
  return Array.from({ length: limit }, (_, i) => {
    const share = points.slice(Math.floor((i * points.length) / limit), Math.floor(((i + 1) * points.length) / limit));
    const mean = (pick: (point: Point) => number) => share.reduce((sum, point) => sum + pick(point), 0) / share.length;
    return { x: mean((point) => point.x), y: mean((point) => point.y) };
  });
}

/** Exponential moving average, without bias towards the first value; `span` is the number of points it looks back, about. */
export function smooth(points: readonly Point[], span: number): Point[] {
  const decay = 1 - 2 / (span + 1);
  let sum = 0;
  let weight = 0;
  return points.map(({ x, y }) => {
    sum = decay * sum + y;
    weight = decay * weight + 1;
    return { x, y: sum / weight };
  });
}
