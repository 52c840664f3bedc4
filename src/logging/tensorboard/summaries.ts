// SPDX-License-Identifier: Apache-2.0
/** The messages of tensorflow's summary.proto and of the hparams plugin, in the forms that TensorBoard shows. */
import { type ProtoWriter, protoWriter } from './protobuf.ts';

/** A value of a run's settings. */
export type HparamValue = string | number | boolean;

/** What TensorBoard's HPARAMS page says of a run. */
export type SessionStatus = 'success' | 'failure';

const DTYPE = { float: 1, string: 7 } as const;
/** SummaryMetadata.DataClass */
const DATA_CLASS_TENSOR = 2;
const STATUS: Record<SessionStatus, number> = { success: 1, failure: 2 };
const HPARAM_TYPE = { string: 1, boolean: 2, number: 3 } as const;

/** One number: Summary.Value.simple_value. */
export function scalarValue(tag: string, value: number): Uint8Array {
  return protoWriter().string(1, tag).float(2, value).finish();
}

/** A text, which TensorBoard renders as Markdown. */
export function textValue(tag: string, text: string): Uint8Array {
  return tensorValue(tag, 'text', tensorHead(DTYPE.string, 1).string(8, text));
}

const BUCKETS = 30;

/**
 * The distribution of some values: HistogramProto, in equal buckets from the least to the greatest.
 * @param values at least one, all finite
 */
export function histogramValue(tag: string, values: ArrayLike<number>): Uint8Array {
  const all = Array.from(values);
  const low = all.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
  const high = all.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const buckets = high > low ? BUCKETS : 1;
  const counts = new Array<number>(buckets).fill(0);
  for (const value of all) {
    const bucket = high > low ? Math.floor(((value - low) / (high - low)) * buckets) : 0;
    const index = Math.min(bucket, buckets - 1);
    counts[index] = (counts[index] as number) + 1;
  }
  const limits = counts.map((_, i) => (i === buckets - 1 ? high : low + ((high - low) * (i + 1)) / buckets));
  const histogram = protoWriter()
    .double(1, low)
    .double(2, high)
    .double(3, all.length)
    .double(
      4,
      all.reduce((sum, value) => sum + value, 0),
    )
    .double(
      5,
      all.reduce((sum, value) => sum + value * value, 0),
    )
    .doubles(6, limits)
    .doubles(7, counts)
    .finish();
  return protoWriter().string(1, tag).bytes(5, histogram).finish();
}

/**
 * What the HPARAMS page of TensorBoard compares runs by: Experiment and SessionStartInfo, two values of one summary.
 * @param metrics tags of scalars
 */
export function hparamsValues(
  hparams: Readonly<Record<string, HparamValue>>,
  metrics: readonly string[],
  startSeconds: number,
): Uint8Array[] {
  const experiment = protoWriter();
  const start = protoWriter();
  for (const [name, value] of Object.entries(hparams)) {
    const info = protoWriter()
      .string(1, name)
      .integer(4, HPARAM_TYPE[typeof value as keyof typeof HPARAM_TYPE]);
    experiment.bytes(4, info.finish());
    start.bytes(1, protoWriter().string(1, name).bytes(2, jsonValue(value)).finish());
  }
  for (const tag of metrics) {
    experiment.bytes(5, protoWriter().bytes(1, protoWriter().string(2, tag).finish()).finish());
  }
  start.double(5, startSeconds);
  return [
    hparamsValue('_hparams_/experiment', 2, experiment.finish()),
    hparamsValue('_hparams_/session_start_info', 3, start.finish()),
  ];
}

/** How a run of the HPARAMS page ended. */
export function sessionEndValue(status: SessionStatus, endSeconds: number): Uint8Array {
  const end = protoWriter().integer(1, STATUS[status]).double(2, endSeconds).finish();
  return hparamsValue('_hparams_/session_end_info', 4, end);
}

/** @param field of the oneof in HParamsPluginData; the plugin reads the metadata alone, the tensor is empty */
function hparamsValue(tag: string, field: number, message: Uint8Array): Uint8Array {
  return tensorValue(tag, 'hparams', tensorHead(DTYPE.float, 0), protoWriter().bytes(field, message).finish());
}

/** google.protobuf.Value */
function jsonValue(value: HparamValue): Uint8Array {
  if (typeof value === 'number') return protoWriter().double(2, value).finish();
  if (typeof value === 'boolean') return protoWriter().integer(4, Number(value)).finish();
  return protoWriter().string(3, value).finish();
}

/** A Summary.Value that a plugin of TensorBoard shows. */
function tensorValue(
  tag: string,
  plugin: string,
  tensor: ProtoWriter,
  content: Uint8Array = new Uint8Array(),
): Uint8Array {
  const pluginData = protoWriter().string(1, plugin).bytes(2, content).finish();
  const metadata = protoWriter().bytes(1, pluginData).integer(4, DATA_CLASS_TENSOR).finish();
  return protoWriter().string(1, tag).bytes(9, metadata).bytes(8, tensor.finish()).finish();
}

/** A TensorProto of one dimension, without its values. */
function tensorHead(dtype: number, size: number): ProtoWriter {
  const shape = protoWriter().bytes(2, protoWriter().integer(1, size).finish()).finish();
  return protoWriter().integer(1, dtype).bytes(2, shape);
}
