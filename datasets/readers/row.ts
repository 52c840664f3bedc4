// SPDX-License-Identifier: Apache-2.0
/** What every reader gives: the rows of one file, in their order, without holding the file in memory. */
import { UserError } from '../../src/errors.ts';
import type { RecordOrigin } from '../fields.ts';

/** A file to read, and what messages call it. */
export interface DataFile {
  path: string;
  name: string;
  /** Gets what share of the file has been read, 0 to 1, now and then. */
  onProgress?(share: number): void;
}

/** A row as plain JSON values, or what is wrong with it; readers go on behind a fault. */
export type Row = { value: unknown; origin: RecordOrigin } | { fault: UserError; origin: RecordOrigin };

/** @throws UserError for what is wrong with the file as a whole */
export type RowReader = (file: DataFile) => AsyncGenerator<Row>;

/** Most bytes of one line or cell: what is longer is a file of another kind. */
export const MAX_LINE_BYTES = 64 * 1024 * 1024;

/** Rows of tables as JSON has them: 64-bit integers as numbers, dates as ISO texts, typed arrays as arrays. */
export function plainValue(value: unknown): unknown {
  if (typeof value === 'bigint') return toNumber(value);
  if (typeof value !== 'object' || value === null) return value;
  if (value instanceof Date) return value.toISOString();
  if (Array.isArray(value)) return value.map(plainValue);
  if (ArrayBuffer.isView(value)) return Array.from(value as Uint8Array | BigInt64Array, plainValue);
  if (value instanceof Map) return plainValue(Object.fromEntries(value));
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plainValue(item)]));
}

/** Integers beyond 2^53, which no number holds, as text. */
function toNumber(value: bigint): number | string {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : String(value);
}

/** A file that its reader cannot go on with. */
export function fileFault(file: DataFile, what: string, error: unknown): unknown {
  if (error instanceof UserError) return error;
  const reason = error instanceof Error ? error.message : String(error);
  return new UserError(`${file.name}: ${what}: ${reason}`, { cause: error });
}
