// SPDX-License-Identifier: Apache-2.0
/** Asks reference.py, one process a test file. */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

export interface Python {
  /** @throws what Python raised */
  ask<T>(command: string, request: Record<string, unknown>): Promise<T>;
  stop(): void;
}

export function startPython(interpreter: string): Python {
  const script = new URL('reference.py', import.meta.url).pathname;
  const environment = {
    ...process.env,
    HF_HUB_OFFLINE: '1',
    TRANSFORMERS_VERBOSITY: 'error',
    PYTHONWARNINGS: 'ignore',
  };
  const child = spawn(interpreter, [script], { stdio: ['pipe', 'pipe', 'inherit'], env: environment });
  const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    async ask<T>(command: string, request: Record<string, unknown>) {
      child.stdin.write(`${JSON.stringify({ command, ...request })}\n`);
      const { value, done } = await answers.next();
      if (done) throw new Error(`${script} ended without an answer to ${command}`);
      const answer = JSON.parse(value) as { result: T } | { error: string };
      if ('error' in answer) throw new Error(answer.error);
      return answer.result;
    },
    stop: () => child.stdin.end(),
  };
}
