// SPDX-License-Identifier: Apache-2.0
/** Loads a dataset: a JSONL file, a folder of them, or a Hub dataset whose files are JSONL. */
import { readdirSync, statSync } from 'node:fs';
import { join, sep } from 'node:path';
import { UserError } from '../src/errors.ts';
import { fileError } from '../src/files.ts';
import { type HubOptions, looksLikeRepo, resolveRepoFiles } from '../src/hub.ts';
import { readJsonl } from './readers/jsonl.ts';
import { type DataRecord, type FieldNames, type RecordKind, recordParser } from './records.ts';
import { filesOfSplit } from './splits.ts';

export interface Dataset {
  /** What messages call it: the file, or the folder or Hub id with its split. */
  name: string;
  /** All records are of this kind. */
  kind: RecordKind;
  /** At least one. */
  records: DataRecord[];
}

export interface LoadDatasetOptions extends FieldNames, HubOptions {
  /** Split of a folder or Hub dataset, found by file names (`filesOfSplit`). Default `train`. A file has none. */
  split?: string;
}

/** The source of records in a run config (`data.train`, `data.eval`). */
export interface DatasetSource {
  path: string | null;
  hub: string | null;
  split: string | null;
  revision: string | null;
  text_field: string | null;
  prompt_field: string | null;
  completion_field: string | null;
}

/** A file to read, and what messages call it. */
interface NamedFile {
  path: string;
  name: string;
}

/**
 * Loads a dataset by one name: a file or folder when there is one at that path, otherwise a Hub id.
 *
 * @throws UserError when there is neither, when no file makes the split (lists the files there are), when the dataset is
 *   empty, and with `file:line` for a line or record that cannot be read.
 */
export async function loadDataset(pathOrHub: string, options: LoadDatasetOptions = {}): Promise<Dataset> {
  if (statSync(pathOrHub, { throwIfNoEntry: false }) !== undefined) return loadLocalDataset(pathOrHub, options);
  if (looksLikeRepo(pathOrHub) && !pathOrHub.endsWith('.jsonl')) return loadHubDataset(pathOrHub, options);
  throw new UserError(`there is no file or folder ${pathOrHub}, and it is no Hub dataset id (owner/name)`);
}

/** Loads the dataset that a run config names. Throws what `loadDataset` does. */
export async function loadDatasetSource(
  source: DatasetSource,
  options: Omit<HubOptions, 'revision'> = {},
): Promise<Dataset> {
  const all: LoadDatasetOptions = {
    ...options,
    split: source.split ?? undefined,
    revision: source.revision ?? undefined,
    textField: source.text_field ?? undefined,
    promptField: source.prompt_field ?? undefined,
    completionField: source.completion_field ?? undefined,
  };
  if (source.path !== null) return loadLocalDataset(source.path, all);
  if (source.hub !== null) return loadHubDataset(source.hub, all);
  throw new UserError('a data source needs path or hub; found neither');
}

async function loadLocalDataset(path: string, options: LoadDatasetOptions): Promise<Dataset> {
  const { split, revision } = options;
  if (revision !== undefined) {
    throw new UserError(`${path}: found revision ${revision}, but only a Hub dataset has revisions`);
  }
  const folderFiles = listFiles(path);
  if (folderFiles === undefined) {
    if (split === undefined) return readDataset([{ path, name: path }], path, options);
    throw new UserError(`${path}: found split ${split}, but this is a file, which has no splits`);
  }
  const chosen = chooseFiles(folderFiles, split ?? 'train', path).map((name) => join(path, name));
  const [only, ...others] = chosen;
  const name = only !== undefined && others.length === 0 ? only : `${path} (${split ?? 'train'})`;
  return readDataset(
    chosen.map((file) => ({ path: file, name: file })),
    name,
    options,
  );
}

async function loadHubDataset(repo: string, options: LoadDatasetOptions): Promise<Dataset> {
  const { split = 'train', revision, cacheDir, hubUrl, onMessage } = options;
  const { folder, files } = await resolveRepoFiles({
    repo,
    type: 'dataset',
    revision,
    select: (paths) => chooseFiles(paths, split, repo),
    cacheDir,
    hubUrl,
    onMessage,
  });
  const named = files.map((file) => ({ path: join(folder, file), name: `${repo}/${file}` }));
  return readDataset(named, `${repo} (${split})`, options);
}

/** The files in a folder, as relative paths with forward slashes, hidden ones left out; undefined for a file. */
function listFiles(path: string): string[] | undefined {
  try {
    if (!statSync(path).isDirectory()) return undefined;
    return readdirSync(path, { recursive: true, encoding: 'utf8' })
      .map((name) => name.split(sep).join('/'))
      .filter((name) => !name.split('/').some((part) => part.startsWith('.')));
  } catch (error) {
    throw fileError(error, path, 'read');
  }
}

/** The JSONL files of a split, or an error that lists what there is. */
function chooseFiles(paths: readonly string[], split: string, where: string): string[] {
  const jsonl = paths.filter((path) => path.toLowerCase().endsWith('.jsonl'));
  const files = filesOfSplit(jsonl, split);
  if (files.length > 0) return files;
  throw new UserError(
    jsonl.length === 0
      ? `${where}: found no JSONL file (*.jsonl). Its files are: ${list(paths)}`
      : `${where}: found no JSONL file of split ${split}; expected a name such as ${split}.jsonl. Its JSONL files are: ${list(jsonl)}`,
  );
}

function list(paths: readonly string[]): string {
  if (paths.length === 0) return 'none';
  const shown = paths.slice(0, 20).join(', ');
  return paths.length > 20 ? `${shown} and ${paths.length - 20} more` : shown;
}

async function readDataset(files: readonly NamedFile[], name: string, fields: FieldNames): Promise<Dataset> {
  const parse = recordParser(fields);
  const records: DataRecord[] = [];
  for (const file of files) {
    for await (const { value, line } of readJsonl(file.path, file.name)) {
      records.push(parse(value, { file: file.name, line }));
    }
  }
  const [first] = records;
  if (first === undefined) {
    throw new UserError(
      `${name}: the dataset is empty; expected at least one line with a JSON object such as {"text": "…"}`,
    );
  }
  return { name, kind: first.kind, records };
}
