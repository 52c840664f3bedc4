// SPDX-License-Identifier: Apache-2.0
/** Messages for a person, on stderr: stdout belongs to results. */
import { styleText } from 'node:util';

/** Where messages go; process.stderr is one. */
export interface MessageStream {
  write(text: string): unknown;
  isTTY?: boolean;
  columns?: number;
}

export type Style = Parameters<typeof styleText>[0];

/** Puts a style around a text, or leaves it as it is on a stream that shows none. */
export type Styler = (style: Style, text: string) => string;

/** Colours on a terminal, unless NO_COLOR is set (https://no-color.org) or it is a dumb one; FORCE_COLOR overrides. */
export function stylerFor(stream: MessageStream, env: NodeJS.ProcessEnv = process.env): Styler {
  const forced = (env.FORCE_COLOR ?? '') !== '' && env.FORCE_COLOR !== '0';
  const wanted = (env.NO_COLOR ?? '') === '' && (forced || (stream.isTTY === true && env.TERM !== 'dumb'));
  return wanted ? (style, text) => styleText(style, text, { validateStream: false }) : (_, text) => text;
}

export interface Logger {
  info(line: string): void;
  /** Something to know before trusting the result. */
  warn(line: string): void;
  /** Why it failed. */
  error(line: string): void;
}

/** A logger that writes lines to `stream`, by default stderr. */
export function createLogger(stream: MessageStream = process.stderr): Logger {
  const style = stylerFor(stream);
  return {
    info: (line) => stream.write(`${line}\n`),
    warn: (line) => stream.write(`${style('yellow', 'warning:')} ${line}\n`),
    error: (line) => stream.write(`${style('red', 'error:')} ${line}\n`),
  };
}
