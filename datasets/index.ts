// SPDX-License-Identifier: Apache-2.0
/** The datasets' public door. */
export { type Batch, batchesOf, collate, epochOrder } from './batches.ts';
export { type Dataset, type DatasetSource, type LoadDatasetOptions, loadDataset, loadDatasetSource } from './load.ts';
export { type DataRecord, type FieldNames, IGNORE_INDEX, type RecordKind } from './records.ts';
export {
  countLossTokens,
  type Example,
  type TokenizedDataset,
  type TokenizeOptions,
  type TokenizeReport,
  tokenizeDataset,
  tokenizeMessages,
} from './tokenize.ts';
