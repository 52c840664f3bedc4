// SPDX-License-Identifier: Apache-2.0
/** The progress of tokenizing a dataset: a bar redrawn in place on a terminal, nothing elsewhere. */
import { formatCount, formatDuration } from './format.ts';
import { type MessageStream, stylerFor } from './logger.ts';

export interface TokenizeState {
  name: string;
  records: number;
  tokens: number;
  /** Of the data's bytes, 0 to 1. */
  fraction: number;
  seconds: number;
}

const BAR_WIDTH = 20;
const REDRAW_MILLISECONDS = 100;
/** A dataset that is done by then is not worth a line. */
const QUIET_SECONDS = 1;

/** A function that draws the state on `stream`, and clears its line when the data is through. */
export function createTokenizeProgress(stream: MessageStream): (state: TokenizeState) => void {
  if (stream.isTTY !== true || process.env.TERM === 'dumb') return () => {};
  const style = stylerFor(stream);
  let drawnAt = Number.NEGATIVE_INFINITY;
  return (state) => {
    const now = performance.now();
    if (state.fraction >= 1) {
      if (drawnAt > Number.NEGATIVE_INFINITY) stream.write('\r\x1b[K');
      drawnAt = Number.NEGATIVE_INFINITY;
      return;
    }
    if (state.seconds < QUIET_SECONDS || now - drawnAt < REDRAW_MILLISECONDS) return;
    drawnAt = now;
    const done = Math.round(state.fraction * BAR_WIDTH);
    const bar = `${style('green', '━'.repeat(done))}${style('dim', '─'.repeat(BAR_WIDTH - done))}`;
    const text = formatTokenizing(state).slice(0, (stream.columns ?? 80) - BAR_WIDTH - 3);
    stream.write(`\r\x1b[K${bar}  ${text}`);
  };
}

/** `tokenizing quotes.jsonl  12,345 records  1,234,567 tokens  350,000 tokens/s  0:03 (0:09 left)` */
export function formatTokenizing({ name, records, tokens, fraction, seconds }: TokenizeState): string {
  const left = (seconds / fraction) * (1 - fraction);
  return [
    `tokenizing ${name}`,
    `${formatCount(records)} records`,
    `${formatCount(tokens)} tokens`,
    `${formatCount(tokens / seconds)} tokens/s`,
    `${formatDuration(seconds)} (${formatDuration(left)} left)`,
  ].join('  ');
}
