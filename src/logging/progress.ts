// SPDX-License-Identifier: Apache-2.0
/** The progress of a run: one line redrawn in place on a terminal, plain lines now and then elsewhere. */
import { formatCount, formatDuration, formatNumber } from './format.ts';
import { type MessageStream, stylerFor } from './logger.ts';

export interface ProgressState {
  /** Optimizer steps taken, at least 1. */
  step: number;
  totalSteps: number;
  /** Epochs that are over, with fraction. */
  epoch: number;
  /** In nats. */
  loss: number;
  learningRate: number;
  tokensPerSecond: number;
  /** Since the first step began. */
  elapsedSeconds: number;
}

export interface Progress {
  /** After each step: redraws the line on a terminal, does nothing elsewhere. */
  step(state: ProgressState): void;
  /** Every logging_steps: a plain line where there is no terminal. */
  log(state: ProgressState): void;
  /** A line of its own, above the progress line. */
  message(line: string): void;
  /** Ends the line, so that what is printed next begins on a new one. */
  finish(): void;
}

const BAR_WIDTH = 20;
const REDRAW_MILLISECONDS = 66;

/** Progress on `stream`, by default stderr. */
export function createProgress(stream: MessageStream = process.stderr): Progress {
  return stream.isTTY === true && process.env.TERM !== 'dumb' ? terminalProgress(stream) : plainProgress(stream);
}

/** `step 120/630  epoch 0.57  loss 3.927  lr 0.00162  12,345 tokens/s  0:12 (0:51 left)` */
export function formatProgress(state: ProgressState): string {
  const { step, totalSteps, epoch, loss, learningRate, tokensPerSecond, elapsedSeconds } = state;
  const left = (elapsedSeconds / step) * (totalSteps - step);
  return [
    `step ${String(step).padStart(String(totalSteps).length)}/${totalSteps}`,
    `epoch ${epoch.toFixed(2)}`,
    `loss ${loss.toFixed(4)}`,
    `lr ${formatNumber(learningRate)}`,
    `${formatCount(tokensPerSecond)} tokens/s`,
    `${formatDuration(elapsedSeconds)} (${formatDuration(left)} left)`,
  ].join('  ');
}

function plainProgress(stream: MessageStream): Progress {
  return {
    step: () => {},
    log: (state) => stream.write(`${formatProgress(state)}\n`),
    message: (line) => stream.write(`${line}\n`),
    finish: () => {},
  };
}

function terminalProgress(stream: MessageStream): Progress {
  const style = stylerFor(stream);
  let current: ProgressState | undefined;
  let drawnAt = Number.NEGATIVE_INFINITY;

  const draw = () => {
    if (!current) return;
    drawnAt = performance.now();
    const width = (stream.columns ?? 80) - 1;
    const text = formatProgress(current);
    const done = Math.round((current.step / current.totalSteps) * BAR_WIDTH);
    const bar = text.length + BAR_WIDTH + 2 <= width;
    const drawnBar = bar ? `${style('green', '━'.repeat(done))}${style('dim', '─'.repeat(BAR_WIDTH - done))}  ` : '';
    stream.write(`\r\x1b[K${drawnBar}${text.slice(0, width)}`);
  };
  const clear = () => {
    if (current) stream.write('\r\x1b[K');
  };

  return {
    step: (state) => {
      current = state;
      const isLast = state.step === state.totalSteps;
      if (isLast || performance.now() - drawnAt >= REDRAW_MILLISECONDS) draw();
    },
    log: () => {},
    message: (line) => {
      clear();
      stream.write(`${line}\n`);
      draw();
    },
    finish: () => {
      draw();
      if (current) stream.write('\n');
      current = undefined;
    },
  };
}
