// SPDX-License-Identifier: Apache-2.0
/** Reads Arrow IPC files and streams (Feather 2, the files of Hugging Face datasets) by apache-arrow, one record batch at a time. */
import { type FileHandle, open } from 'node:fs/promises';
import { CompressionType, compressionRegistry, RecordBatchReader, StructRow, Vector } from 'apache-arrow';
import { decompress } from 'fzstd';
import { fileError } from '../../src/files.ts';
import { decodeLz4Frame } from './lz4_frame.ts';
import { type DataFile, fileFault, plainValue, type Row } from './row.ts';

compressionRegistry.set(CompressionType.LZ4_FRAME, { decode: decodeLz4Frame });
// A copy, since Arrow's views need the alignment of a buffer of its own.
compressionRegistry.set(CompressionType.ZSTD, { decode: (data) => decompress(data).slice() });

/** @throws UserError for a file that is not Arrow IPC, or ends early */
export async function* readArrow(file: DataFile): AsyncGenerator<Row> {
  const handle = await open(file.path, 'r').catch((error: unknown) => {
    throw fileError(error, file.path, 'read');
  });
  let row = 0;
  try {
    for await (const batch of await openBatches(handle)) {
      for (let index = 0; index < batch.numRows; index++) {
        row += 1;
        yield { value: jsonValue(batch.get(index)), origin: { file: file.name, row } };
      }
    }
  } catch (error) {
    throw fileFault(
      file,
      row === 0 ? 'not readable as Arrow IPC' : `row ${row + 1} cannot be read as Arrow IPC`,
      error,
    );
  } finally {
    await handle.close();
  }
}

async function openBatches(handle: FileHandle) {
  const reader = await RecordBatchReader.from(handle);
  await reader.open();
  if (!reader.schema) throw new Error('it has no schema');
  return reader;
}

function jsonValue(value: unknown): unknown {
  if (value instanceof Vector) return Array.from(value, jsonValue);
  if (value instanceof StructRow) {
    return Object.fromEntries(Object.entries(value.toJSON()).map(([key, item]) => [key, jsonValue(item)]));
  }
  return plainValue(value);
}
