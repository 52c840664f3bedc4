// SPDX-License-Identifier: Apache-2.0
/** Reads Arrow IPC files and streams (Feather 2, the files of Hugging Face datasets) by apache-arrow, one record batch at a time. */
import { type FileHandle, open } from 'node:fs/promises';
import { RecordBatchReader, StructRow, Vector } from 'apache-arrow';
import { fileError } from '../../src/files.ts';
import { arrowMessages, encapsulate, type ReadAt } from './arrow_messages.ts';
import { checkValues } from './arrow_values.ts';
import { type DataFile, fileFault, plainValue, type Row } from './row.ts';

/** @throws UserError for a file that is not Arrow IPC, or ends early */
export async function* readArrow(file: DataFile): AsyncGenerator<Row> {
  const handle = await open(file.path, 'r').catch((error: unknown) => {
    throw fileError(error, file.path, 'read');
  });
  let row = 0;
  const place = { byte: 0 };
  try {
    for await (const batch of await openBatches(handle, file, place)) {
      // A stream without batches gives an empty one, without buffers.
      if (batch.numRows > 0) checkValues(batch);
      for (let index = 0; index < batch.numRows; index++) {
        const value = jsonValue(batch.get(index));
        row += 1;
        yield { value, origin: { file: file.name, row } };
      }
    }
  } catch (error) {
    const what = row === 0 ? 'not readable as Arrow IPC' : `row ${row + 1} cannot be read as Arrow IPC`;
    throw fileFault(file, what, withByte(error, place.byte));
  } finally {
    await handle.close();
  }
}

/** @param place is told where the message begins that is read */
async function openBatches(handle: FileHandle, file: DataFile, place: { byte: number }) {
  const { size } = await handle.stat();
  const readAt = reader(handle, size);
  const chunks = async function* () {
    for await (const found of arrowMessages(readAt, size)) {
      place.byte = found.body;
      yield* encapsulate(found, readAt);
      file.onProgress?.(Math.min(1, found.end / size));
    }
  };
  const batches = await RecordBatchReader.from(chunks());
  await batches.open();
  if (!batches.schema) throw new Error('it has no schema');
  return batches;
}

function reader(handle: FileHandle, size: number): ReadAt {
  return async (position, length) => {
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const { bytesRead } = await handle.read(bytes, done, length - done, position + done);
      if (bytesRead === 0) throw new Error(`byte ${size}: the file ends early`);
      done += bytesRead;
    }
    return bytes;
  };
}

/** Says where a batch is that is decoded to something impossible. */
function withByte(error: unknown, byte: number): unknown {
  const isPlaced = error instanceof Error && error.message.startsWith('byte ');
  return isPlaced || !(error instanceof Error)
    ? error
    : new Error(`the batch at byte ${byte}: ${error.message}`, { cause: error });
}

function jsonValue(value: unknown): unknown {
  if (value instanceof Vector) return Array.from(value, jsonValue);
  if (value instanceof StructRow) {
    return Object.fromEntries(Object.entries(value.toJSON()).map(([key, item]) => [key, jsonValue(item)]));
  }
  return plainValue(value);
}
