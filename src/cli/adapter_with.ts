// SPDX-License-Identifier: Apache-2.0
/** The work of `mambatune adapter`. */
import {
  type AdapterReport,
  type CombinationType,
  combineAdapters,
  convertAdapter,
  type EmbeddingPolicy,
  inspectAdapter,
  type MajoritySignMethod,
} from '../../adapters/index.ts';
import { resolveModelFolder } from '../hub.ts';
import { formatCount, formatNumber } from '../logging/format.ts';
import { openStreamedModel } from '../model/streamed_model.ts';
import type { CliContext } from './context.ts';

export interface InspectRequest {
  folder: string;
  model?: string;
  revision?: string;
}

export interface ConvertRequest {
  folder: string;
  output: string;
  embeddings: EmbeddingPolicy;
}

export interface CombineRequest {
  folders: string[];
  output: string;
  weights: number[];
  type: CombinationType;
  svdRank?: number;
  density?: number;
  majoritySignMethod?: MajoritySignMethod;
  seed?: number;
  base?: string;
}

/** @throws UserError when the adapter is damaged or does not fit the model */
export async function inspectWith(context: CliContext, { folder, model, revision }: InspectRequest): Promise<object> {
  const report = await inspect();
  context.print(describe(report));
  return report;

  async function inspect(): Promise<AdapterReport> {
    if (model === undefined) return inspectAdapter(folder);
    const options = { ...(revision !== undefined && { revision }), onMessage: context.logger.info };
    const base = openStreamedModel(await resolveModelFolder(model, options), model, revision ?? null);
    try {
      return inspectAdapter(folder, base);
    } finally {
      base.close();
    }
  }
}

/** @throws UserError when the adapter cannot be converted, or the output cannot be written */
export async function convertWith(
  context: CliContext,
  { folder, output, embeddings }: ConvertRequest,
): Promise<object> {
  const result = await convertAdapter(folder, output, { embeddings });
  const { from, to, modules, r, scale, dropped } = result;
  context.print(
    `${folder} (${from}) -> ${output} (${to}): ${modules.length} modules, rank ${r}, scale ${formatNumber(scale)}\n`,
  );
  if (dropped.length > 0) context.print(`left out: ${dropped.join(', ')}\n`);
  return { adapter: folder, output, ...result };
}

/** @throws UserError when the adapters cannot be combined, or the output cannot be written */
export async function combineWith(context: CliContext, request: CombineRequest): Promise<object> {
  const { folders, output, weights, type, base, svdRank, density, majoritySignMethod, seed } = request;
  const result = await combineAdapters(folders, weights, output, {
    combinationType: type,
    ...(svdRank !== undefined && { svdRank }),
    ...(density !== undefined && { density }),
    ...(majoritySignMethod && { majoritySignMethod }),
    ...(seed !== undefined && { seed }),
    ...(base !== undefined && { baseModelNameOrPath: base }),
  });
  const sum = result.adapters.map(({ adapter, weight }) => `${weight} ${adapter}`).join(' + ');
  context.print(`${output} = ${sum} (${result.combinationType}): ${result.modules.length} modules, rank ${result.r}\n`);
  return { output, ...result };
}

function describe(report: AdapterReport): string {
  const { modules, dead, notFinite, otherTensors, peft } = report;
  const targets = typeof report.targetModules === 'string' ? report.targetModules : report.targetModules.join(', ');
  const matches = { true: 'those of the given model', false: 'NOT those of the given model' };
  const weights = report.baseFingerprint === null ? 'not recorded' : report.baseFingerprint.slice(0, 16);
  const lines = [
    `adapter      ${report.adapter}`,
    `base model   ${report.baseModel ?? 'not named'}`,
    `its weights  ${weights}${report.baseMatches === null ? '' : `, ${matches[`${report.baseMatches}`]}`}`,
    `rank         ${report.r}, alpha ${report.loraAlpha}${report.useRslora ? ', rslora' : ''}`,
    `targets      ${targets}`,
    ...(report.trainableTokenIndices === null ? [] : [`tokens       ${tokenList(report.trainableTokenIndices)}`]),
    `parameters   ${formatCount(report.parameters)} in ${modules.length} modules`,
    '',
    ...table(report),
    '',
    ...(otherTensors.length > 0 ? [`besides these: ${otherTensors.join(', ')}`] : []),
    ...(notFinite.length > 0 ? [`NOT FINITE: ${notFinite.join(', ')}`] : []),
    dead.length > 0 ? `all zero, so without effect: ${dead.join(', ')}` : 'no tensor is all zero',
    ...peft.map(({ module, count, problem }) => `peft, ${module} (${count}): ${problem}`),
    ...(peft.length > 0 ? ['`mambatune merge --peft-compatible` writes what peft can use'] : []),
  ];
  return `${lines.join('\n')}\n`;
}

function tokenList(tokens: NonNullable<AdapterReport['trainableTokenIndices']>): string {
  return (Array.isArray(tokens) ? tokens : (Object.values(tokens)[0] as number[])).join(', ');
}

function table({ modules }: AdapterReport): string[] {
  const hasRelative = modules.some(({ relative }) => relative !== null);
  const header = ['module', 'rank', '|A|', '|B|', '|update|', ...(hasRelative ? ['of |W|'] : [])];
  const rows = modules.map(({ module, rank, normA, normB, normDelta, relative }) => [
    module,
    String(rank),
    ...[normA, normB, normDelta].map(formatNumber),
    ...(relative === null ? [] : [`${formatNumber(100 * relative)} %`]),
  ]);
  const widths = header.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  return [header, ...rows].map((row) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join('  ')
      .trimEnd(),
  );
}
