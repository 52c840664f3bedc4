// SPDX-License-Identifier: Apache-2.0
/** The norms of an adapter's updates as a coloured table: a row a layer, a column a kind of module. */
import { formatNumber } from '../format.ts';
import { type Html, html } from './html.ts';
import type { NormLine } from './read_run.ts';

type Norms = NormLine['adapter_norms'];
type Norm = Norms[string];

const LAYER = /\.layers\.(\d+)\.(?:.*\.)?([^.]+)$/;

/** Layers of one block; blocks stand side by side where there is room. */
const BLOCK = 12;

/**
 * @param norms by module name: backbone.layers.3.mixer.in_proj, backbone.embeddings
 * @param most the relative norm that has the full colour
 */
export function heatMap(norms: Norms, most: number): Html {
  const layers = new Map<number, Map<string, Norm>>();
  const alone: [string, Norm][] = [];
  for (const [name, norm] of Object.entries(norms)) {
    const [, index, kind] = LAYER.exec(name) ?? [];
    if (index === undefined || kind === undefined) {
      alone.push([kindOf(name), norm]);
      continue;
    }
    const row = layers.get(Number(index)) ?? new Map<string, Norm>();
    layers.set(Number(index), row.set(kind, norm));
  }
  const kinds = [...new Set([...layers.values()].flatMap((row) => [...row.keys()]))];
  const indices = [...layers.keys()].sort((a, b) => a - b);
  const blocks = Array.from({ length: Math.ceil(indices.length / BLOCK) }, (_, i) =>
    indices.slice(i * BLOCK, (i + 1) * BLOCK),
  );
  return html`<div class="heat">
${blocks.map(
  (block) => html`<table><thead><tr><th>layer</th>${kinds.map((kind) => html`<th>${kind}</th>`)}</tr></thead><tbody>
${block.map(
  (layer) => html`<tr><th>${layer}</th>${kinds.map((kind) => cell(layers.get(layer)?.get(kind), most))}</tr>
`,
)}</tbody></table>
`,
)}${
  alone.length > 0
    ? html`<table><thead><tr><th>whole model</th><th></th></tr></thead><tbody>
${alone.map(
  ([name, norm]) => html`<tr><th>${name}</th>${cell(norm, most)}</tr>
`,
)}</tbody></table>`
    : null
}</div>`;
}

/** The scale under the heat maps of a page. */
export function heatScale(most: number): Html {
  return html`<p class="scale"><span>0</span><b></b><span>${formatShare(most)} of the weight’s norm, and more</span></p>`;
}

/** Largest relative norm of the layers of some maps: what stands outside the layers may be far off, and would pale them all. */
export function largestShare(maps: readonly Norms[]): number {
  const entries = maps.flatMap((norms) => Object.entries(norms));
  const inLayers = entries.filter(([name]) => LAYER.test(name));
  const counted = inLayers.length > 0 ? inLayers : entries;
  return counted.reduce((most, [, { relative }]) => Math.max(most, relative ?? 0), 0);
}

/** The last part of a module's name. */
export function kindOf(name: string): string {
  return name.slice(name.lastIndexOf('.') + 1);
}

/** 0.0312 as 3.1 % */
export function formatShare(share: number): string {
  return `${formatNumber(Number((100 * share).toPrecision(2)))} %`;
}

/** Where the colours of both schemes have gone so far that the other ink reads better. */
const LIGHT_INK = 0.68;

function cell(norm: Norm | undefined, most: number): Html {
  if (norm === undefined) return html`<td></td>`;
  const { norm: absolute, relative } = norm;
  if (absolute === null || relative === null) return html`<td class="bad">not finite</td>`;
  const share = most > 0 ? Math.min(1, relative / most) : 0;
  const title = `norm of the update ${formatNumber(absolute)}, ${formatShare(relative)} of the weight’s`;
  return html`<td class="${share > LIGHT_INK ? 'hot' : ''}" style="--v:${share.toFixed(3)}" title="${title}">${formatShare(relative)}</td>`;
}
