// SPDX-License-Identifier: Apache-2.0
/** What a person is told when the device's memory is full. */
import { expect, it } from 'vitest';
import { createContext } from '../../src/cli/context.ts';
import { reportError } from '../../src/cli/report_error.ts';

function report(error: unknown): { stderr: string; exitCode: number } {
  let stderr = '';
  const stream = (keep: (text: string) => void) => ({
    write: (text: string) => {
      keep(text);
      return true;
    },
    isTTY: false,
  });
  const io = {
    stdin: (async function* () {})(),
    stdout: stream(() => {}),
    stderr: stream((text) => {
      stderr += text;
    }),
  };
  const exitCode = reportError(error, createContext(io, false), 'generate');
  return { stderr, exitCode };
}

it('a full card is the user’s to mend: its message, and nothing of a fault of the program', () => {
  const message = 'lora_linear forward: out of memory on the GPU: 5.0 MiB wanted; 1.0 MiB in use';
  const { stderr, exitCode } = report(new Error(message));
  expect(stderr).toContain(message);
  expect(stderr).not.toContain('This should not happen');
  expect(exitCode).toBe(1);
});

it('another error of the addon is a fault of the program', () => {
  expect(report(new Error('lora_linear forward: CUDA error')).stderr).toContain('This should not happen');
});
