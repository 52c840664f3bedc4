// SPDX-License-Identifier: Apache-2.0
/** What every command gets: the streams, and where results and messages go. */
import { createLogger, type Logger, type MessageStream } from '../logging/logger.ts';

export interface CliIo {
  stdin: AsyncIterable<Uint8Array | string> & { isTTY?: boolean };
  stdout: MessageStream;
  stderr: MessageStream;
}

export interface CliContext {
  io: CliIo;
  /** stdout holds one JSON value and nothing else. */
  json: boolean;
  /** Messages, on stderr. */
  logger: Logger;
  /** What the process ends with when the command does not throw; 0 unless the command finds that a check failed. */
  exitCode: 0 | 1;
  /** Puts a part of the result for a person on stdout; with `json` it does nothing. */
  print(text: string): void;
}

export function createContext(io: CliIo, json: boolean): CliContext {
  return {
    io,
    json,
    logger: createLogger(io.stderr),
    exitCode: 0,
    print: (text) => {
      if (!json) io.stdout.write(text);
    },
  };
}

/** Writes the one JSON value of a command, with keys in snake_case. */
export function writeJson(io: CliIo, value: unknown): void {
  io.stdout.write(`${JSON.stringify(snakeCaseKeys(value), null, 2)}\n`);
}

function snakeCaseKeys(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(snakeCaseKeys);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [
      key.replace(/[a-z0-9][A-Z]/g, ([before, letter]) => `${before}_${letter?.toLowerCase()}`),
      snakeCaseKeys(item),
    ]),
  );
}
