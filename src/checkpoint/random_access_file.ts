// SPDX-License-Identifier: Apache-2.0
/** A file opened for reading at any position, the bounds checked. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { UserError } from '../errors.ts';
import { fileError } from '../files.ts';

export interface RandomAccessFile {
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  /**
   * `length` bytes from `position`, in fresh memory.
   * @throws UserError when they are not all in the file, naming `what` they are
   */
  read(position: number, length: number, what: string): Uint8Array<ArrayBuffer>;
  close(): void;
}

/** @throws UserError when `path` cannot be opened, or is no regular file */
export function openRandomAccessFile(path: string): RandomAccessFile {
  let descriptor: number;
  let size: number;
  try {
    descriptor = openSync(path, 'r');
    const status = fstatSync(descriptor);
    if (!status.isFile()) {
      closeSync(descriptor);
      throw new UserError(`cannot read ${path}: this is not a regular file; check the path.`);
    }
    size = status.size;
  } catch (error) {
    throw fileError(error, path, 'read');
  }
  let open = true;
  return {
    path,
    size,
    read(position, length, what) {
      if (position + length > size) {
        throw new UserError(
          `${path}: ${what} should be at bytes ${position} to ${position + length}, but the file ends at byte ${size}. It is truncated: fetch it again.`,
        );
      }
      const bytes = new Uint8Array(length);
      for (let done = 0; done < length; ) {
        const count = readSync(descriptor, bytes, done, Math.min(length - done, 1 << 30), position + done);
        if (count === 0) {
          throw new UserError(`${path}: the file got shorter while ${what} was read, at byte ${position + done}.`);
        }
        done += count;
      }
      return bytes;
    },
    close() {
      if (open) closeSync(descriptor);
      open = false;
    },
  };
}
