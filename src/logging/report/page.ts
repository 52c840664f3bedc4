// SPDX-License-Identifier: Apache-2.0
/** The report: one HTML page that needs nothing beside itself, neither network nor script. */
import { writeFileAtomic } from '../../files.ts';
import { subtitle } from './facts.ts';
import { type Html, html, raw } from './html.ts';
import { type RunReport, readRun } from './read_run.ts';
import { SCRIPT } from './script.ts';
import { adapterNorms, charts, comparison, coverage, factsOf, samples, tiles } from './sections.ts';
import { STYLE } from './style.ts';

/**
 * Writes the report of one run, or of several in the same pictures.
 * @param folders of the runs, at least one
 * @throws UserError when a folder holds no run or a damaged one, or the page cannot be written
 */
export function writeReport(folders: readonly string[], path: string): void {
  writeFileAtomic(path, renderReport(folders.map(readRun)));
}

/** The page as text. */
export function renderReport(given: readonly RunReport[]): string {
  const runs = withDistinctNames(given);
  const [first] = runs;
  if (first === undefined) throw new Error('a report needs a run');
  const title = runs.length === 1 ? first.name : `${runs.length} runs`;
  const body = runs.length === 1 ? single(first) : several(runs);
  return `<!doctype html>\n${
    html`<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>${title} · mambatune</title>
<style>${raw(STYLE)}</style>
</head>
<body><main>
${body}
<footer>Written by mambatune ${String(first.record.mambatune)}</footer>
</main>
<script>${raw(SCRIPT)}</script>
</body></html>`.html
  }\n`;
}

function single(run: RunReport): Html {
  return html`<header><h1>${run.name}</h1>${status(run)}<p>${subtitle(run)}</p></header>
${failure(run)}${tiles(run)}
${charts([run])}
${samples([run])}
${adapterNorms([run])}
${coverage(run)}
${factsOf(run)}`;
}

function several(runs: readonly RunReport[]): Html {
  return html`<header><h1>${runs.map((run) => run.name).join(', ')}</h1><p>${runs.length} runs compared</p></header>
${runs.map(failure)}${comparison(runs)}
${charts(runs)}
${samples(runs)}
${adapterNorms(runs)}`;
}

function status({ record }: RunReport): Html {
  return html`<span class="status ${String(record.status)}">${String(record.status)}</span>`;
}

/** Why a run failed. */
function failure({ record, name }: RunReport): Html | null {
  return typeof record.error === 'string' ? html`<p class="error">${name}: ${record.error}</p>` : null;
}

/** Runs whose folders have the same last part go by their whole paths. */
function withDistinctNames(runs: readonly RunReport[]): RunReport[] {
  const isShared = (name: string) => runs.filter((run) => run.name === name).length > 1;
  return runs.map((run) => (isShared(run.name) ? { ...run, name: run.folder } : run));
}
