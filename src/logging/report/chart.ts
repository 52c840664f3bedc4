// SPDX-License-Identifier: Apache-2.0
/** A line chart: lines in an SVG that stretches with the page, labels as text over it, so that they keep their size. */
import { formatCount, formatNumber } from '../format.ts';
import { type Html, html, jsonForScript, raw } from './html.ts';
import { createScale, needsLog, type Point, type Scale, smooth, thin, tickLabels } from './scale.ts';

export interface Series {
  label: string;
  /** Number of its colour in the page's palette. */
  color: number;
  points: readonly Point[];
  /** Mark each point; for few of them. */
  marked?: boolean;
}

export interface ChartOptions {
  title: string;
  /** What the values are, after the title. */
  unit: string;
  series: readonly Series[];
  /** Draw noisy series pale, with their moving average over them. */
  smoothed?: boolean;
  /** Logarithmic where a few values dwarf the others. */
  mayBeLog?: boolean;
  /** Of values in the labels. */
  format?: (value: number) => string;
  wide?: boolean;
}

const MOST_POINTS = 1000;
/** Shorter series are shown as they are. */
const SMOOTHED_FROM = 30;

/** The chart as a figure; nothing when no series has a finite point. */
export function lineChart(options: ChartOptions): Html | null {
  const { title, unit, smoothed = false, mayBeLog = false, format = formatNumber, wide = false } = options;
  const series = options.series
    .map((one) => ({
      ...one,
      points: thin(
        one.points.filter(({ y }) => Number.isFinite(y)),
        MOST_POINTS,
      ),
    }))
    .filter(({ points }) => points.length > 0);
  if (series.length === 0) return null;
  const all = series.flatMap(({ points }) => points);
  const values = all.map(({ y }) => y);
  const isLog = mayBeLog && needsLog(values);
  const x = createScale([0, ...all.map((point) => point.x)]);
  const y = createScale(values, { isLog, pad: true });
  const curves = series.map((one) => ({ ...one, isSmoothed: smoothed && one.points.length >= SMOOTHED_FROM }));
  const note = [
    unit,
    isLog ? 'logarithmic' : '',
    curves.some(({ isSmoothed }) => isSmoothed) ? 'with moving average' : '',
  ];
  const data = series.map(({ label, color, points }) => ({
    label,
    color,
    points: points.map((point) => [round(x.place(point.x)), round(1 - y.place(point.y)), point.x, format(point.y)]),
  }));
  return html`<figure class="chart${wide ? ' wide' : ''}">
<figcaption><b>${title}</b> <span>${note.filter(Boolean).join(', ')}</span>${legend(series)}</figcaption>
<div class="plot" tabindex="0" role="img" aria-label="${describe(title, series, format)}">
<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">
${y.ticks.map((tick) => gridLine(y, tick))}${curves.map((one) => curve(one, x, y))}</svg>
${tickLabels(y).map((label, i) => html`<i class="y" style="top:${percent(1 - y.place(y.ticks[i] as number))}">${label}</i>`)}
${x.ticks.filter(Number.isInteger).map((tick) => html`<i class="x" style="left:${percent(x.place(tick))}">${formatCount(tick)}</i>`)}
<i class="axis">step</i>
<div class="cursor" hidden></div><div class="tip" hidden></div>
<script type="application/json">${jsonForScript(data)}</script>
</div>
</figure>`;
}

function legend(series: readonly Series[]): Html | null {
  if (series.length < 2) return null;
  return html`<span class="legend">${series.map(({ label, color }) => html`<em class="c${color}">${label}</em>`)}</span>`;
}

function gridLine(y: Scale, tick: number): Html {
  const top = round(1000 * (1 - y.place(tick)));
  return raw(`<path class="grid" d="M0 ${top}H1000"/>`);
}

function curve(series: Series & { isSmoothed: boolean }, x: Scale, y: Scale): Html {
  const { points, color, marked, isSmoothed } = series;
  const path = (some: readonly Point[], before: string) =>
    some
      .map(
        (point, i) =>
          `${i === 0 ? 'M' : before}${round(1000 * x.place(point.x))} ${round(1000 * (1 - y.place(point.y)))}`,
      )
      .join('');
  const line = (some: readonly Point[], name: string) =>
    `<path class="line ${name} c${color}" d="${path(some, 'L')}"/>`;
  const dots = points.map((point) => `<path class="dot c${color}" d="${path([point], '')}h0"/>`).join('');
  if (isSmoothed) return raw(line(points, 'pale') + line(smooth(points, Math.max(5, points.length / 25)), ''));
  return raw(line(points, '') + (marked || points.length === 1 ? dots : ''));
}

/** The chart in words, for those who do not see it. */
function describe(title: string, series: readonly Series[], format: (value: number) => string): string {
  const parts = series.map(({ label, points }) => {
    const [first, last] = [points[0], points.at(-1)];
    return first && last
      ? `${label}: ${format(first.y)} at step ${first.x}, ${format(last.y)} at step ${last.x}`
      : label;
  });
  return `${title}. ${parts.join('; ')}.`;
}

function round(value: number): number {
  return Number(value.toFixed(4));
}

function percent(share: number): string {
  return `${(100 * share).toFixed(2)}%`;
}
