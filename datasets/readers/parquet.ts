// SPDX-License-Identifier: Apache-2.0
/** Reads Parquet by hyparquet, one row group at a time. */
import { type FileHandle, open } from 'node:fs/promises';
import { type AsyncBuffer, type FileMetaData, parquetMetadataAsync, parquetReadObjects } from 'hyparquet';
import { compressors as decompressors } from 'hyparquet-compressors';
import { fileError } from '../../src/files.ts';
import { checkFooter, checkMetadata, checkPages } from './parquet_pages.ts';
import { type DataFile, fileFault, plainValue, type Row } from './row.ts';
import { decodeZstd } from './zstd.ts';

const compressors = { ...decompressors, ZSTD: decodeZstd };

/** @throws UserError for a file that is not Parquet, or whose rows cannot be read, naming them */
export async function* readParquet(file: DataFile): AsyncGenerator<Row> {
  const handle = await open(file.path, 'r').catch((error: unknown) => {
    throw fileError(error, file.path, 'read');
  });
  try {
    const buffer = await asyncBuffer(handle);
    const metadata = await attempt(file, 'not readable as Parquet', () => readMetadata(buffer));
    let start = 0;
    for (const group of metadata.row_groups) {
      const end = start + Number(group.num_rows);
      const what = `rows ${start + 1} to ${end} cannot be read as Parquet`;
      const rows = await attempt(file, what, async () => {
        await checkPages(buffer, metadata, group, compressors);
        return readRows(buffer, metadata, start, end);
      });
      for (const [index, value] of rows.entries()) {
        yield { value: plainValue(value), origin: { file: file.name, row: start + index + 1 } };
      }
      start = end;
      file.onProgress?.(end / Number(metadata.num_rows));
    }
  } finally {
    await handle.close();
  }
}

async function readMetadata(file: AsyncBuffer): Promise<FileMetaData> {
  await checkFooter(file);
  const metadata = await parquetMetadataAsync(file, { geoparquet: false });
  checkMetadata(metadata, file.byteLength);
  return metadata;
}

function readRows(file: AsyncBuffer, metadata: FileMetaData, rowStart: number, rowEnd: number) {
  return parquetReadObjects({ file, metadata, rowStart, rowEnd, compressors });
}

async function asyncBuffer(handle: FileHandle): Promise<AsyncBuffer> {
  const { size: byteLength } = await handle.stat();
  return {
    byteLength,
    slice: async (start, end = byteLength) => {
      const length = Math.min(end, byteLength) - start;
      if (!(length >= 0)) throw new Error(`there are no bytes ${start} to ${end} in ${byteLength}`);
      const bytes = new Uint8Array(length);
      let done = 0;
      while (done < length) {
        const { bytesRead } = await handle.read(bytes, done, length - done, start + done);
        if (bytesRead === 0) throw new Error('the file ends early');
        done += bytesRead;
      }
      return bytes.buffer;
    },
  };
}

async function attempt<T>(file: DataFile, what: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    throw fileFault(file, what, error);
  }
}
