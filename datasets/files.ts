// SPDX-License-Identifier: Apache-2.0
/** The files of a dataset: one file, those of a folder or glob, or those of a Hub dataset. */
import { readdirSync, statSync } from 'node:fs';
import { isAbsolute, join, sep } from 'node:path';
import { globSync } from 'tinyglobby';
import { UserError } from '../src/errors.ts';
import { fileError } from '../src/files.ts';
import { type HubOptions, resolveRepoFiles } from '../src/hub.ts';
import { DATA_EXTENSIONS, DATA_FORMATS, formatOf } from './formats.ts';
import type { DataFile } from './readers/row.ts';
import { filesOfSplit } from './splits.ts';

export interface DatasetFiles {
  /** What messages call the dataset: the file, or the folder, glob or Hub id with its split. */
  name: string;
  /** At least one, all of one format. */
  files: DataFile[];
}

export interface FindFilesOptions extends HubOptions {
  /** Split of a folder or Hub dataset, found by file names. Default `train`. A file or glob has none. */
  split?: string;
}

/** Files that tools leave beside the data. */
const NO_DATA = /(^|\/)(dataset_infos?|state|package|package-lock|tsconfig)\.json$/i;

/** Whether a path holds the wildcards of a glob: `*`, `?`, `[…]`, `{…}`. */
export function isGlob(path: string): boolean {
  return /[*?[\]{}]/.test(path);
}

/** @throws UserError when there is nothing at the path, or no data file of the split (lists the files there are) */
export function localFiles(path: string, { split, revision }: FindFilesOptions): DatasetFiles {
  if (revision !== undefined) {
    throw new UserError(`${path}: found revision ${revision}, but only a Hub dataset has revisions`);
  }
  const there = listFiles(path);
  if (there === undefined) {
    if (split !== undefined)
      throw new UserError(`${path}: found split ${split}, but this is a file, which has no splits`);
    return { name: path, files: [dataFile(path)] };
  }
  if (there.isGlob) {
    if (split !== undefined) throw new UserError(`${path}: found split ${split}, but a glob names its files itself`);
    if (there.paths.length === 0) throw new UserError(`${path}: no file has such a name`);
    return { name: path, files: there.paths.map(dataFile) };
  }
  const chosen = chooseFiles(there.paths, split ?? 'train', path).map((name) => join(path, name));
  const [only, ...others] = chosen;
  const name = only !== undefined && others.length === 0 ? only : `${path} (${split ?? 'train'})`;
  return { name, files: chosen.map(dataFile) };
}

/** The files of a Hub dataset's split, fetched into the Hub's cache. Throws what `resolveRepoFiles` does. */
export async function hubFiles(repo: string, options: FindFilesOptions): Promise<DatasetFiles> {
  const { split = 'train', ...hub } = options;
  const { folder, files } = await resolveRepoFiles({
    ...hub,
    repo,
    type: 'dataset',
    select: (paths) => chooseFiles(paths, split, repo),
  });
  return {
    name: `${repo} (${split})`,
    files: files.map((file) => ({ path: join(folder, file), name: `${repo}/${file}` })),
  };
}

/** The files of a folder, relative to it, or of a glob, hidden ones left out; undefined for a file. */
function listFiles(path: string): { paths: string[]; isGlob: boolean } | undefined {
  try {
    const found = statSync(path, { throwIfNoEntry: false });
    if (found === undefined && isGlob(path)) {
      const [literal = path] = sep === '\\' ? [path.replaceAll('\\', '/')] : [path];
      const options = { onlyFiles: true, expandDirectories: false, absolute: isAbsolute(path) };
      return { paths: globSync(literal, options).sort(), isGlob: true };
    }
    if (found !== undefined && !found.isDirectory()) return undefined;
    const paths = readdirSync(path, { recursive: true, encoding: 'utf8' })
      .map((name) => name.split(sep).join('/'))
      .filter((name) => !name.split('/').some((part) => part.startsWith('.')));
    return { paths, isGlob: false };
  } catch (error) {
    throw fileError(error, path, 'read');
  }
}

function dataFile(path: string): DataFile {
  if (formatOf(path)) return { path, name: path };
  throw new UserError(`${path}: found no known format by this name; expected one that ends with ${DATA_EXTENSIONS}`);
}

/** The data files of a split: of the format that most of them have. */
function chooseFiles(paths: readonly string[], split: string, where: string): string[] {
  const data = paths.filter((path) => formatOf(path) && !NO_DATA.test(path));
  const ofSplit = filesOfSplit(data, split);
  const byFormat = DATA_FORMATS.map((format) => ofSplit.filter((path) => formatOf(path) === format));
  const tables = byFormat.slice(0, -1).reduce((most, files) => (files.length > most.length ? files : most));
  const files = tables.length > 0 ? tables : (byFormat.at(-1) ?? []);
  if (files.length > 0) return files;
  throw new UserError(
    data.length === 0
      ? `${where}: found no data file (${DATA_EXTENSIONS}). Its files are: ${list(paths)}`
      : `${where}: found no data file of split ${split}; expected a name such as ${split}.jsonl. Its data files are: ${list(data)}`,
  );
}

function list(paths: readonly string[]): string {
  if (paths.length === 0) return 'none';
  const shown = paths.slice(0, 20).join(', ');
  return paths.length > 20 ? `${shown} and ${paths.length - 20} more` : shown;
}
