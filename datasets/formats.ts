// SPDX-License-Identifier: Apache-2.0
/** The formats of data files, known by the ends of their names. */
import { readArrow } from './readers/arrow.ts';
import { uncompressedName } from './readers/bytes.ts';
import { readCsv } from './readers/csv.ts';
import { readJson } from './readers/json.ts';
import { readJsonl } from './readers/jsonl.ts';
import { readParquet } from './readers/parquet.ts';
import type { DataFile, RowReader } from './readers/row.ts';
import { readTextFile, type SampleBy } from './readers/text.ts';

export interface DataFormat {
  name: string;
  extensions: readonly string[];
  /** Whether .gz and .zst may follow the extension. */
  compressible: boolean;
  read(file: DataFile, sampleBy: SampleBy): ReturnType<RowReader>;
}

/** Those that say most about their records first: of equally many files of two formats in a folder, the earlier is read. */
export const DATA_FORMATS: readonly DataFormat[] = [
  { name: 'Parquet', extensions: ['.parquet'], compressible: false, read: readParquet },
  { name: 'JSONL', extensions: ['.jsonl', '.ndjson'], compressible: true, read: readJsonl },
  { name: 'Arrow', extensions: ['.arrow', '.feather'], compressible: false, read: readArrow },
  { name: 'CSV', extensions: ['.csv', '.tsv'], compressible: true, read: readCsv },
  { name: 'JSON', extensions: ['.json'], compressible: true, read: readJson },
  { name: 'text', extensions: ['.txt'], compressible: true, read: readTextFile },
];

/** The ends of names that are read: `.jsonl, .ndjson, …`. */
export const DATA_EXTENSIONS = `${DATA_FORMATS.flatMap(({ extensions }) => extensions).join(', ')}; of text formats also with .gz or .zst behind`;

/** The format of a file by its name; undefined for one that is no data file. */
export function formatOf(path: string): DataFormat | undefined {
  const lower = path.toLowerCase();
  return DATA_FORMATS.find(({ extensions, compressible }) =>
    extensions.some((extension) => (compressible ? uncompressedName(path) : lower).endsWith(extension)),
  );
}
