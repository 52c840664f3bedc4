// SPDX-License-Identifier: Apache-2.0
/** Runs the body of a command: its result as JSON when asked for, Ctrl-C as an orderly end. */
import { InterruptedError, watchInterrupts } from '../../trainer/interrupt.ts';
import { type CliContext, writeJson } from './context.ts';

/** @param body puts its result on stdout itself for a person, and returns it for --json */
export async function runCommand(context: CliContext, body: () => Promise<object>): Promise<void> {
  const result = await body();
  if (context.json) writeJson(context.io, result);
}

/**
 * Runs `body` with a signal that SIGINT and SIGTERM abort.
 * @throws InterruptedError when one came
 */
export async function interruptible<T>(body: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const watch = watchInterrupts((name) => controller.abort(new InterruptedError(`interrupted (${name})`)));
  try {
    return await body(controller.signal);
  } finally {
    watch.stop();
  }
}
