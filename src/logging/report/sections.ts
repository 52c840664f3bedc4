// SPDX-License-Identifier: Apache-2.0
/** The parts of the report's page. */
import { formatCount, formatNumber } from '../format.ts';
import { lineChart, type Series } from './chart.ts';
import { type Fact, facts, formatLoss, formatMaybe, headlines, meanSpeed, settingsOf } from './facts.ts';
import { heatMap, heatScale, kindOf, largestShare } from './heat_map.ts';
import { type Html, html } from './html.ts';
import type { NormLine, RunReport, TrainLine } from './read_run.ts';
import type { Point } from './scale.ts';

const COLORS = 8;

export function tiles(run: RunReport): Html {
  return html`<div class="tiles">${headlines(run).map(
    ({ name, value, detail }) =>
      html`<div class="tile"><span>${name}</span><b>${value}</b><small>${detail}</small></div>`,
  )}</div>`;
}

/** Losses first, then what tells how the training went. */
export function charts(runs: readonly RunReport[]): Html {
  const [single] = runs;
  const isSingle = runs.length === 1 && single !== undefined;
  const training = (pick: (line: TrainLine) => number | null) =>
    runs.map((run, i) => seriesOf(run, i, run.training, pick));
  const evaluations = runs.map((run, i) => ({
    ...seriesOf(run, i, run.evaluations, (line) => line.eval_loss),
    marked: true,
  }));
  const losses: Series[] = isSingle
    ? [
        { ...(training((line) => line.loss)[0] as Series), label: 'training' },
        { ...(evaluations[0] as Series), label: 'evaluation', color: 1 },
      ]
    : training((line) => line.loss);
  const drawn = [
    lineChart({ title: 'Loss', unit: 'nats a token', series: losses, smoothed: true, format: threePlaces, wide: true }),
    isSingle
      ? null
      : lineChart({
          title: 'Evaluation loss',
          unit: 'nats a token',
          series: evaluations,
          format: threePlaces,
          wide: true,
        }),
    lineChart({ title: 'Learning rate', unit: '', series: training((line) => line.learning_rate) }),
    lineChart({
      title: 'Gradient norm',
      unit: 'before clipping',
      series: training((line) => line.grad_norm),
      smoothed: true,
      mayBeLog: true,
    }),
    lineChart({
      title: 'Throughput',
      unit: 'tokens a second',
      series: training((line) => line.tokens_per_second),
      smoothed: true,
    }),
    lineChart({
      title: 'Growth of the adapter',
      unit: 'norm of the update, % of the weight’s, mean over layers',
      mayBeLog: true,
      series: isSingle ? growthByKind(single.norms) : runs.map((run, i) => growth(run, i)),
    }),
  ];
  return html`<div class="charts">${drawn}</div>`;
}

export function adapterNorms(runs: readonly RunReport[]): Html | null {
  const last = runs.flatMap((run, i) => {
    const line = run.norms.at(-1);
    return line ? [{ run, i, line }] : [];
  });
  if (last.length === 0) return null;
  const most = largestShare(last.map(({ line }) => line.adapter_norms));
  return html`<section><h2>Adapter norms</h2>
<p class="note">How far training has moved each weight: the norm of the update, lora_B · lora_A scaled, as a share of the norm of the weight it is added to.</p>
${last.map(
  ({ run, i, line }) =>
    html`${runs.length > 1 ? html`<h3 class="key c${i % COLORS}">${run.name}</h3>` : null}${heatMap(line.adapter_norms, most)}`,
)}${heatScale(most)}</section>`;
}

/** Samples at the first and the last evaluation that had some; between them, folded away. */
export function samples(runs: readonly RunReport[]): Html | null {
  const written = runs.filter((run) => run.samples.length > 0);
  if (written.length === 0) return null;
  const prompts = [
    ...new Set(written.flatMap((run) => run.samples.flatMap((line) => line.samples.map(({ prompt }) => prompt)))),
  ];
  const sides = (prompt: string, isOuter: boolean) =>
    written.flatMap((run) =>
      run.samples
        .filter((_, i) => isOuter === (i === 0 || i === run.samples.length - 1))
        .flatMap(({ step, samples: some }) =>
          some
            .filter((sample) => sample.prompt === prompt)
            .map(
              ({ completion }) =>
                html`<div><h4>${runs.length > 1 ? `${run.name}, ` : ''}${step === 0 ? 'before training' : `step ${formatCount(step)}`}</h4><p>${completion.trim()}</p></div>`,
            ),
        ),
    );
  return html`<section><h2>Samples</h2><div class="samples">${prompts.map((prompt) => {
    const between = sides(prompt, false);
    return html`<article class="sample"><p>${prompt}</p><div class="sides">${sides(prompt, true)}</div>
${between.length > 0 ? html`<details><summary>between</summary><div class="sides">${between}</div></details>` : null}</article>`;
  })}</div></section>`;
}

export function coverage(run: RunReport): Html | null {
  if (run.coverage.length === 0) return null;
  const checked = run.coverage.filter((row) => row.step !== null).length;
  const all = run.coverage.length;
  return html`<section><h2>Gradient coverage</h2>
<p class="note"><span class="${checked === all ? 'ok' : 'dead'}">${checked} of ${all}</span> trainable tensors were seen to get a gradient. A tensor of an adapter whose other factor is still zero is looked at once that has moved.</p>
<details><summary>every tensor</summary><div class="scroll tall"><table class="data">
<thead><tr><th>tensor</th><th class="n">shape</th><th class="n">gradient norm</th><th class="n">step</th></tr></thead><tbody>
${run.coverage.map(
  (row) =>
    html`<tr><td class="mono">${row.name}</td><td class="n">${row.shape.join(' × ')}</td><td class="n">${row.grad_norm === null ? 'not checked' : formatNumber(row.grad_norm)}</td><td class="n">${row.step ?? '–'}</td></tr>
`,
)}</tbody></table></div></details></section>`;
}

export function factsOf(run: RunReport): Html {
  return html`<section><h2>The run</h2>${rows(facts(run))}
${run.config === null ? null : html`<details><summary>config.yaml</summary><div class="scroll"><pre>${run.config}</pre></div></details>`}</section>`;
}

/** The runs side by side: what came out, and the settings in which they differ. */
export function comparison(runs: readonly RunReport[]): Html {
  const settings = runs.map((run) => settingsOf(run.config));
  const keys = [...new Set(settings.flatMap((map) => [...map.keys()]))].filter(
    (key) => key !== 'trainer.output_dir' && new Set(settings.map((map) => map.get(key))).size > 1,
  );
  const results: [string, (run: RunReport) => string][] = [
    ['status', (run) => String(run.record.status)],
    ['eval loss', ({ evaluations }) => (evaluations.length > 0 ? formatLoss(evaluations.at(-1)?.eval_loss) : '–')],
    ['training loss', ({ training }) => (training.length > 0 ? formatLoss(training.at(-1)?.loss) : '–')],
    ['steps', ({ training }) => formatCount(training.at(-1)?.step ?? 0)],
    ['tokens', ({ training }) => formatCount(training.at(-1)?.tokens ?? 0)],
    ['tokens/s', (run) => formatMaybe(meanSpeed(run))],
  ];
  return html`<div class="scroll" style="margin-top: 22px"><table class="data">
<thead><tr><th></th>${runs.map((run, i) => html`<th><span class="key c${i % COLORS}"></span>${run.name}</th>`)}</tr></thead><tbody>
${results.map(
  ([name, value]) => html`<tr><th>${name}</th>${runs.map((run) => html`<td>${value(run)}</td>`)}</tr>
`,
)}${keys.map(
  (
    key,
  ) => html`<tr class="differs"><th class="mono">${key}</th>${settings.map((map) => html`<td>${map.get(key) ?? '–'}</td>`)}</tr>
`,
)}</tbody></table></div>
<p class="note below">${keys.length > 0 ? 'Coloured: the settings in which the runs differ.' : 'The settings of the runs are the same.'}</p>`;
}

function rows(some: readonly Fact[]): Html {
  return html`<div class="scroll"><table class="data"><tbody>${some.map(
    ([name, value]) => html`<tr><th>${name}</th><td>${value}</td></tr>
`,
  )}</tbody></table></div>`;
}

function seriesOf<Line extends { step: number }>(
  run: RunReport,
  index: number,
  lines: readonly Line[],
  pick: (line: Line) => number | null,
): Series {
  const points = lines.map((line): Point => ({ x: line.step, y: pick(line) ?? Number.NaN }));
  return { label: run.name, color: index % COLORS, points };
}

function growthByKind(norms: readonly NormLine[]): Series[] {
  const kinds = [...new Set(norms.flatMap((line) => Object.keys(line.adapter_norms).map(kindOf)))];
  return kinds.map((kind, i) => ({
    label: kind,
    color: i % COLORS,
    points: norms.map((line) => ({ x: line.step, y: meanShare(line, (name) => kindOf(name) === kind) })),
  }));
}

function growth(run: RunReport, index: number): Series {
  return {
    label: run.name,
    color: index % COLORS,
    points: run.norms.map((line) => ({ x: line.step, y: meanShare(line, () => true) })),
  };
}

/** Mean relative norm of some modules, in percent. */
function meanShare({ adapter_norms: norms }: NormLine, isMeant: (name: string) => boolean): number {
  const shares = Object.entries(norms).flatMap(([name, { relative }]) =>
    isMeant(name) ? [relative ?? Number.NaN] : [],
  );
  return (100 * shares.reduce((sum, share) => sum + share, 0)) / shares.length;
}

function threePlaces(value: number): string {
  return value.toFixed(Math.abs(value) < 10 ? 3 : 1).replace(/\.?0+$/, '');
}
