// SPDX-License-Identifier: Apache-2.0
/** Runs the command line in this process, with streams that remember. */
import type { CliIo } from '../../src/cli/context.ts';
import { main } from '../../src/cli/program.ts';

export interface CliRun {
  code: number;
  stdout: string;
  stderr: string;
  /** The pieces that stdout got. */
  writes: string[];
}

/** @param options.stdin what is piped in; without it, stdin is a terminal */
export async function runCli(
  argv: readonly string[],
  options: { stdin?: string; columns?: number } = {},
): Promise<CliRun> {
  const writes: string[] = [];
  const messages: string[] = [];
  const io: CliIo = {
    stdin: Object.assign(pieces(options.stdin), { isTTY: options.stdin === undefined }),
    stdout: { write: (text) => writes.push(text), columns: options.columns },
    stderr: { write: (text) => messages.push(text) },
  };
  const code = await main(argv, io);
  return { code, stdout: writes.join(''), stderr: messages.join(''), writes };
}

/** Runs with --json, and parses the whole of stdout. */
export async function runJson<T>(argv: readonly string[]): Promise<{ code: number; value: T; stderr: string }> {
  const { code, stdout, stderr } = await runCli([...argv, '--json']);
  return { code, value: JSON.parse(stdout) as T, stderr };
}

export interface JsonError {
  error: { kind: string; message: string; exit_code: number };
}

/** In pieces that cut characters in two. */
async function* pieces(text = ''): AsyncGenerator<Uint8Array> {
  const bytes = new TextEncoder().encode(text);
  for (let start = 0; start < bytes.length; start += 3) yield bytes.subarray(start, start + 3);
}
