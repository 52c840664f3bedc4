// SPDX-License-Identifier: Apache-2.0
/** Data as training sees it: tokens with their loss mask, counts, lengths, and what batches and packed rows make of them. */
import {
  batchesOf,
  type DataRecord,
  epochOrder,
  IGNORE_INDEX,
  lengthGroupedBatches,
  loadExamples,
  openDatasetSource,
  packSequences,
  placeOf,
  readRecords,
  recordPreparer,
  type TokenizeReport,
  tokenCounts,
} from '../../datasets/index.ts';
import { exampleOptions } from '../../trainer/index.ts';
import type { RunConfig } from '../config/schema.ts';
import { ConfigError } from '../errors.ts';
import { formatCount } from '../logging/format.ts';
import type { Styler } from '../logging/logger.ts';
import { AutoTokenizer, type Tokenizer } from '../tokenizer/tokenizer.ts';

export interface DataPreview extends Omit<TokenizeReport, 'sha256'> {
  examples: number;
  lengths: LengthSummary;
  /** What fills the batches of the first epoch, as the config makes them. */
  batches: { batchSize: number; rows: number; packed: boolean; paddingPercent: number };
  shown: ShownRecord[];
}

export interface LengthSummary {
  shortest: number;
  median: number;
  p95: number;
  longest: number;
  /** Examples of `from` to `to` tokens. */
  histogram: { from: number; to: number; count: number }[];
}

export interface ShownRecord {
  /** `file:line`, or `file: row n`. */
  place: string;
  tokens: { id: number; text: string; loss: boolean }[];
}

/**
 * @param shown how many of the first records to give token by token
 * @throws UserError when data or tokenizer are missing or damaged; ConfigError when the config has no data.eval to look at
 */
export async function previewData(
  config: RunConfig,
  part: 'train' | 'eval',
  shown: number,
  onMessage: (line: string) => void,
): Promise<DataPreview> {
  const { data, trainer, model } = config;
  const source = data[part];
  if (source === null) throw new ConfigError('--part eval: the config has no data.eval');
  const tokenizer = await AutoTokenizer.fromPretrained(model.path, { revision: model.revision, onMessage });
  const options = { ...exampleOptions(data, trainer.seed, tokenizer.vocabSize), onMessage };
  const { examples, report } = await loadExamples(source, tokenizer, options);

  const packed = part === 'train' && data.packing;
  const rows = packed ? packSequences(examples, data.max_length) : examples;
  const batchSize = part === 'train' ? trainer.per_device_train_batch_size : trainer.per_device_eval_batch_size;
  const counts = tokenCounts(rows);
  const order = epochOrder(rows.length, trainer.seed, 0, part === 'train' && data.shuffle);
  const batches =
    part === 'train' && trainer.group_by_length
      ? lengthGroupedBatches(order, batchSize, counts, trainer.seed, 0)
      : batchesOf(order, batchSize);

  const prepare = recordPreparer(tokenizer, options);
  const { sha256: _, ...totals } = report;
  return {
    ...totals,
    examples: examples.length,
    lengths: summarize(tokenCounts(examples)),
    batches: { batchSize, rows: rows.length, packed, paddingPercent: paddingPercent(batches, counts) },
    shown: (await firstRecords(source, shown)).map((record) => showRecord(record, prepare(record).example, tokenizer)),
  };
}

/** The first records; of mixed sources, of the first of them. */
async function firstRecords({ sources, ...source }: RunConfig['data']['train'], count: number): Promise<DataRecord[]> {
  const records: DataRecord[] = [];
  if (count === 0) return records;
  for await (const read of readRecords(await openDatasetSource(sources?.[0] ?? source))) {
    if ('record' in read) records.push(read.record);
    if (records.length === count) break;
  }
  return records;
}

function showRecord(
  record: DataRecord,
  { inputIds, labels }: { inputIds: Int32Array; labels: Int32Array },
  tokenizer: Tokenizer,
): ShownRecord {
  const tokens = Array.from(inputIds, (id, position) => ({
    id,
    text: tokenizer.decode([id]),
    loss: position > 0 && labels[position] !== IGNORE_INDEX,
  }));
  return { place: placeOf(record), tokens };
}

const HISTOGRAM_BARS = 12;

function summarize(counts: Int32Array): LengthSummary {
  const sorted = counts.toSorted();
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
  const [shortest, longest] = [at(0), at(1)];
  const width = Math.max(1, Math.ceil((longest - shortest + 1) / HISTOGRAM_BARS));
  const histogram = Array.from({ length: Math.ceil((longest - shortest + 1) / width) }, (_, bar) => {
    const [from, to] = [shortest + bar * width, Math.min(longest, shortest + (bar + 1) * width - 1)];
    return { from, to, count: sorted.filter((tokens) => tokens >= from && tokens <= to).length };
  });
  return { shortest, median: at(0.5), p95: at(0.95), longest, histogram };
}

function paddingPercent(batches: readonly Uint32Array[], counts: Int32Array): number {
  let positions = 0;
  let tokens = 0;
  for (const batch of batches) {
    const lengths = Array.from(batch, (index) => counts[index] ?? 0);
    positions += lengths.length * Math.max(...lengths);
    tokens += lengths.reduce((sum, length) => sum + length, 0);
  }
  return 100 * (1 - tokens / positions);
}

/** The preview for a person. */
export function formatPreview(preview: DataPreview, style: Styler): string {
  const { shown, name, records, examples, tokens, lossTokens, lengths, batches } = preview;
  const hasColours = style('green', '') !== '';
  const parts = shown.map(
    (record) =>
      `${style('bold', record.place)}  ${record.tokens.length} tokens, ${record.tokens.filter(({ loss }) => loss).length} with loss\n${formatTokens(record, style, hasColours)}\n`,
  );
  const share = ((100 * lossTokens) / tokens).toFixed(1);
  const { batchSize, rows, packed, paddingPercent: padding } = batches;
  return [
    ...parts,
    `${style('bold', name)}\n${formatCount(records)} records, ${formatCount(examples)} examples, ${formatCount(tokens)} tokens, ${formatCount(lossTokens)} with loss (${share} %)\n`,
    `tokens an example: ${lengths.shortest} to ${lengths.longest}, median ${lengths.median}, 95th percentile ${lengths.p95}\n${formatHistogram(lengths, style)}`,
    `${formatCount(rows)} ${packed ? 'packed rows' : 'rows'} in batches of ${batchSize}: ${padding.toFixed(1)} % padding\n`,
  ].join('\n');
}

/** Tokens with loss in green and the others dim, or with loss between ⟦ and ⟧; line breaks as ⏎. */
function formatTokens({ tokens }: ShownRecord, style: Styler, hasColours: boolean): string {
  return tokens
    .map(({ text, loss }, index) => {
      const visible = text.replaceAll('\n', '⏎\n');
      if (hasColours) return style(loss ? (index % 2 === 0 ? 'green' : ['green', 'underline']) : 'dim', visible);
      const opens = loss && !tokens[index - 1]?.loss ? '⟦' : '';
      const closes = loss && !tokens[index + 1]?.loss ? '⟧' : '';
      return `${opens}${visible}${closes}`;
    })
    .join('');
}

const BAR_WIDTH = 40;

function formatHistogram({ histogram }: LengthSummary, style: Styler): string {
  const most = Math.max(...histogram.map(({ count }) => count));
  const labels = histogram.map(({ from, to }) => (from === to ? `${from}` : `${from}-${to}`));
  const width = Math.max(...labels.map((label) => label.length));
  return histogram
    .map(({ count }, bar) => {
      const drawn = '█'.repeat(count === 0 ? 0 : Math.max(1, Math.round((BAR_WIDTH * count) / most)));
      return `  ${(labels[bar] ?? '').padStart(width)} ${style('cyan', drawn)} ${formatCount(count)}\n`;
    })
    .join('');
}
