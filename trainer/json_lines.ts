// SPDX-License-Identifier: Apache-2.0
/** Files of one JSON object a line, written as it happens, that a resumed run takes up where its checkpoint left them. */
import { closeSync, fstatSync, fsyncSync, ftruncateSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileError, writeFully } from '../src/files.ts';

export interface JsonLinesLog<Line extends object> {
  /** Writes the line whole, or not at all. */
  write(line: Line): void;
  /** Makes what was written durable. @returns the file's bytes */
  sync(): number;
  /** Drops what is beyond `bytes`. @returns false, and drops nothing, when the file is shorter than that */
  rewind(bytes: number): boolean;
  close(): void;
}

/**
 * Opens a file to append to, or creates it.
 * @throws UserError when it cannot be written; so do the log's functions
 */
export function openJsonLines<Line extends object>(path: string): JsonLinesLog<Line> {
  const attempt = <T>(action: () => T): T => {
    try {
      return action();
    } catch (error) {
      throw fileError(error, path, 'write');
    }
  };
  const descriptor = attempt(() => {
    mkdirSync(dirname(path), { recursive: true });
    return openSync(path, 'a');
  });
  return {
    write: (line) =>
      attempt(() => {
        const { size } = fstatSync(descriptor);
        try {
          writeFully(descriptor, Buffer.from(`${JSON.stringify(line)}\n`));
        } catch (error) {
          ftruncateSync(descriptor, size);
          throw error;
        }
      }),
    sync: () =>
      attempt(() => {
        fsyncSync(descriptor);
        return fstatSync(descriptor).size;
      }),
    rewind: (bytes) =>
      attempt(() => {
        const isWhole = fstatSync(descriptor).size >= bytes;
        if (isWhole) ftruncateSync(descriptor, bytes);
        return isWhole;
      }),
    close: () => closeSync(descriptor),
  };
}
