// SPDX-License-Identifier: Apache-2.0
/** The datasets' public door. */
export { type Batch, batchesOf, collate, epochOrder, lengthGroupedBatches } from './batches.ts';
export type { ChatTemplateName } from './conversation.ts';
export type { Example } from './encode.ts';
export {
  type LoadExamplesOptions,
  loadExamples,
  type MixedSource,
  openSources,
  tokenizeSources,
} from './examples.ts';
export { IGNORE_INDEX, placeOf } from './fields.ts';
export {
  type Dataset,
  type DatasetSource,
  type LoadDatasetOptions,
  loadDataset,
  openDatasetSource,
  readRecords,
} from './load.ts';
export { packSequences } from './packing.ts';
export type { DataRecord, FieldNames, RecordKind } from './records.ts';
export { type Sequence, type SequenceList, tokenCounts } from './sequences.ts';
export {
  countLossTokens,
  recordPreparer,
  type TokenizedDataset,
  type TokenizeOptions,
  type TokenizeReport,
  tokenizeDataset,
  tokenizeMessages,
} from './tokenize.ts';
