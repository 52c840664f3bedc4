// SPDX-License-Identifier: Apache-2.0
/** Datasets from files, folders, globs and the Hub: as a stream of records, or loaded whole. */
import { existsSync, statSync } from 'node:fs';
import { UserError } from '../src/errors.ts';
import { type HubOptions, looksLikeRepo } from '../src/hub.ts';
import type { RecordOrigin } from './fields.ts';
import { type DatasetFiles, type FindFilesOptions, hubFiles, isGlob, localFiles } from './files.ts';
import { formatOf } from './formats.ts';
import type { DataFile } from './readers/row.ts';
import type { SampleBy } from './readers/text.ts';
import { type DataRecord, type FieldNames, recordParser } from './records.ts';

export interface Dataset {
  /** What messages call it: the file, or the folder, glob or Hub id with its split. */
  name: string;
  /** At least one. */
  records: DataRecord[];
}

export interface ReadOptions extends FieldNames {
  /** What of a text file is one record. Default line. */
  sampleBy?: SampleBy;
}

export interface LoadDatasetOptions extends ReadOptions, FindFilesOptions {
  /** What a broken line or record does: end with its place (default), or be left out and counted in a message. */
  onBadRecord?: 'error' | 'skip';
}

/** The source of records in a run config (`data.train`, `data.eval`). */
export interface DatasetSource {
  path?: string | null;
  hub?: string | null;
  split?: string | null;
  revision?: string | null;
  text_field?: string | null;
  prompt_field?: string | null;
  completion_field?: string | null;
  messages_field?: string | null;
  instruction_field?: string | null;
  input_field?: string | null;
  output_field?: string | null;
  sample_by?: SampleBy;
}

/** A record, or what is wrong with it. */
export type ReadRecord = { record: DataRecord } | { fault: UserError; origin: RecordOrigin };

/** A dataset that is read as it is needed. */
export interface RecordSource extends DatasetFiles {
  /** What decides the records beside the files. */
  readOptions: ReadOptions;
}

/**
 * Loads a dataset by one name: a file, folder or glob when there is one at that path, otherwise a Hub id.
 *
 * @throws UserError when there is neither, when no file makes the split (lists the files there are), when the dataset is
 *   empty, and with its place for a record that cannot be read, unless `onBadRecord` is skip.
 */
export async function loadDataset(pathOrHub: string, options: LoadDatasetOptions = {}): Promise<Dataset> {
  const { onBadRecord = 'error', ...rest } = options;
  const source = await findDataset(pathOrHub, rest);
  const bad = createBadRecords(source.name, onBadRecord);
  const records: DataRecord[] = [];
  for await (const read of readRecords(source)) {
    if ('fault' in read) bad.add(read.fault);
    else records.push(read.record);
  }
  for (const line of bad.messages()) rest.onMessage?.(line);
  if (records.length === 0) throw emptyDataset(source.name);
  return { name: source.name, records };
}

async function findDataset(pathOrHub: string, options: Omit<LoadDatasetOptions, 'onBadRecord'>): Promise<RecordSource> {
  const isLocal = existsSync(pathOrHub) || isGlob(pathOrHub);
  if (isLocal) return { ...localFiles(pathOrHub, options), readOptions: readOptionsOf(options) };
  if (looksLikeRepo(pathOrHub) && !formatOf(pathOrHub)) {
    return { ...(await hubFiles(pathOrHub, options)), readOptions: readOptionsOf(options) };
  }
  throw new UserError(`there is no file or folder ${pathOrHub}, and it is no Hub dataset id (owner/name)`);
}

/**
 * Finds the files of the dataset that a run config names.
 * @throws UserError when there are none
 */
export async function openDatasetSource(
  source: DatasetSource,
  hub: Omit<HubOptions, 'revision'> = {},
): Promise<RecordSource> {
  const find = { ...hub, split: source.split ?? undefined, revision: source.revision ?? undefined };
  const readOptions = readOptionsOf({
    textField: source.text_field ?? undefined,
    promptField: source.prompt_field ?? undefined,
    completionField: source.completion_field ?? undefined,
    messagesField: source.messages_field ?? undefined,
    instructionField: source.instruction_field ?? undefined,
    inputField: source.input_field ?? undefined,
    outputField: source.output_field ?? undefined,
    sampleBy: source.sample_by,
  });
  if (source.path != null) return { ...localFiles(source.path, find), readOptions };
  if (source.hub != null) return { ...(await hubFiles(source.hub, find)), readOptions };
  throw new UserError('a data source needs path or hub; found neither');
}

function readOptionsOf(options: ReadOptions): ReadOptions {
  const { textField, promptField, completionField, messagesField, instructionField, inputField, outputField } = options;
  const fields = { textField, promptField, completionField, messagesField, instructionField, inputField, outputField };
  return { ...fields, sampleBy: options.sampleBy ?? 'line' };
}

/**
 * The records of a source, file after file, read as they are asked for.
 * @param onProgress gets the fraction of the files' bytes that has been read, now and then
 * @throws UserError for a file that cannot be read; faults of single records come as such
 */
export async function* readRecords(
  { files, readOptions }: Pick<RecordSource, 'files' | 'readOptions'>,
  onProgress: (fraction: number) => void = () => {},
): AsyncGenerator<ReadRecord> {
  const parse = recordParser(readOptions);
  const sizes = files.map(({ path }) => statSync(path, { throwIfNoEntry: false })?.size ?? 0);
  const total = Math.max(
    1,
    sizes.reduce((sum, size) => sum + size, 0),
  );
  let before = 0;
  for (const [index, { path, name }] of files.entries()) {
    const size = sizes[index] as number;
    const file: DataFile = { path, name, onProgress: (share) => onProgress((before + share * size) / total) };
    const format = formatOf(file.path);
    if (format === undefined) throw new Error(`${file.path} is no data file`);
    for await (const row of format.read(file, readOptions.sampleBy ?? 'line')) {
      if ('fault' in row) yield row;
      else yield parsed(() => parse(row.value, row.origin), row.origin);
    }
    before += size;
    onProgress(before / total);
  }
}

function parsed(parse: () => DataRecord, origin: RecordOrigin): ReadRecord {
  try {
    return { record: parse() };
  } catch (error) {
    if (error instanceof UserError) return { fault: error, origin };
    throw error;
  }
}

export interface BadRecords {
  /** @throws the fault, unless bad records are skipped */
  add(fault: UserError): void;
  /** What `read` gives; undefined for a bad record that is skipped. */
  attempt<T>(read: () => T): T | undefined;
  /** One line on them, when there were any. */
  messages(): string[];
}

/** Decides what a broken record does. */
export function createBadRecords(name: string, onBadRecord: 'error' | 'skip'): BadRecords {
  let count = 0;
  let first = '';
  const add = (fault: UserError) => {
    if (onBadRecord === 'error') throw fault;
    if (count === 0) first = fault.message;
    count += 1;
  };
  return {
    add,
    attempt: (read) => {
      try {
        return read();
      } catch (error) {
        if (!(error instanceof UserError)) throw error;
        add(error);
        return undefined;
      }
    },
    messages: () =>
      count === 0
        ? []
        : [
            `${name}: ${count} bad ${count === 1 ? 'record was' : 'records were'} left out (on_bad_record: skip). The first: ${first}`,
          ],
  };
}

export function emptyDataset(name: string): UserError {
  return new UserError(
    `${name}: the dataset is empty; expected at least one record, such as a line with a JSON object {"text": "…"}`,
  );
}
