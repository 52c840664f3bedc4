// SPDX-License-Identifier: Apache-2.0
/** Turns whatever a command threw into one message and an exit code. */
import { CommanderError } from 'commander';
import { isOutOfMemory } from '../backends/out_of_memory.ts';
import { messageOf, UserError } from '../errors.ts';
import { type CliContext, writeJson } from './context.ts';

/** 0 done, 1 failed, 2 bad usage or config, 130 interrupted. */
export type ExitCode = 0 | 1 | 2 | 130;

interface ErrorReport {
  kind: 'usage' | 'user' | 'interrupted' | 'internal';
  message: string;
  exitCode: ExitCode;
}

/**
 * Reports an error: the message on stderr, with --json also `{"error": {kind, message, exit_code}}` on stdout, with
 * MAMBATUNE_DEBUG=1 also the stack.
 *
 * @param commandName for the pointer to its help
 */
export function reportError(error: unknown, context: CliContext, commandName: string | undefined): ExitCode {
  const report = describeError(error);
  context.logger.error(report.message);
  if (report.kind === 'usage') {
    context.logger.info(`\`${['mambatune', commandName, '--help'].filter(Boolean).join(' ')}\` says what it takes.`);
  }
  if (process.env.MAMBATUNE_DEBUG === '1') {
    if (error instanceof Error) context.logger.info(stackOf(error));
  } else if (report.kind === 'internal') {
    context.logger.info('This should not happen. Set MAMBATUNE_DEBUG=1 and run it again to see where it comes from.');
  }
  if (context.json) writeJson(context.io, { error: report });
  return report.exitCode;
}

function describeError(error: unknown): ErrorReport {
  if (error instanceof CommanderError) {
    return { kind: 'usage', message: error.message.replace(/^error: /, '').replace('\n', ' '), exitCode: 2 };
  }
  if (isOutOfMemory(error) && !(error instanceof UserError)) {
    return { kind: 'user', message: error.message, exitCode: 1 };
  }
  if (error instanceof UserError) return { kind: 'user', message: error.message, exitCode: error.exitCode };
  if (error instanceof Error && error.name === 'InterruptedError') {
    return { kind: 'interrupted', message: error.message, exitCode: 130 };
  }
  return { kind: 'internal', message: messageOf(error), exitCode: 1 };
}

function stackOf(error: Error): string {
  const cause = error.cause instanceof Error ? `\ncaused by: ${stackOf(error.cause)}` : '';
  return `${error.stack ?? error.message}${cause}`;
}
