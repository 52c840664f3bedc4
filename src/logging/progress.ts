// SPDX-License-Identifier: Apache-2.0
/** The progress of a run: one line redrawn in place on a terminal, plain lines now and then elsewhere. */
import { formatCount, formatDuration, formatNumber } from './format.ts';
import { type MessageStream, type Styler, stylerFor } from './logger.ts';

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

const REDRAW_MILLISECONDS = 66;

/** Progress on `stream`, by default stderr. */
export function createProgress(stream: MessageStream = process.stderr): Progress {
  return stream.isTTY === true && process.env.TERM !== 'dumb' ? terminalProgress(stream) : plainProgress(stream);
}

/** `step 120/630  epoch 0.57  loss 3.9268  lr 0.00162  12,345 tokens/s  12s (51s left)` */
export function formatProgress(state: ProgressState, secondsLeft: number): string {
  const { step, totalSteps, epoch, loss, learningRate, tokensPerSecond, elapsedSeconds } = state;
  return [
    `step ${String(step).padStart(String(totalSteps).length)}/${totalSteps}`,
    `epoch ${epoch.toFixed(2)}`,
    `loss ${loss.toFixed(4)}`,
    `lr ${formatNumber(learningRate)}`,
    `${formatCount(tokensPerSecond)} tokens/s`,
    `${formatDuration(elapsedSeconds)} (${formatDuration(secondsLeft)} left)`,
  ].join('  ');
}

function plainProgress(stream: MessageStream): Progress {
  const estimate = createEstimate();
  return {
    step: (state) => estimate.add(state),
    log: (state) => stream.write(`${formatProgress(state, estimate.secondsLeft(state))}\n`),
    message: (line) => stream.write(`${line}\n`),
    finish: () => {},
  };
}

function terminalProgress(stream: MessageStream): Progress {
  const style = stylerFor(stream);
  const estimate = createEstimate();
  const losses: number[] = [];
  let current: ProgressState | undefined;
  let drawnAt = Number.NEGATIVE_INFINITY;

  const draw = () => {
    if (!current) return;
    drawnAt = performance.now();
    const width = (stream.columns ?? 80) - 1;
    stream.write(`\r\x1b[K${progressLine(current, estimate.secondsLeft(current), losses, width, style)}`);
  };
  const clear = () => {
    if (current) stream.write('\r\x1b[K');
  };

  return {
    step: (state) => {
      current = state;
      estimate.add(state);
      losses.push(state.loss);
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

/** How long a run still takes, by the pace since it was first seen: a resumed run does not begin at its first step. */
function createEstimate() {
  let first: { step: number; elapsedSeconds: number } | undefined;
  return {
    add: ({ step, elapsedSeconds }: ProgressState) => {
      // The first step seen took all the time so far.
      first ??= { step: step - 1, elapsedSeconds: 0 };
      if (elapsedSeconds < first.elapsedSeconds) first = { step, elapsedSeconds };
    },
    secondsLeft: ({ step, totalSteps, elapsedSeconds }: ProgressState) => {
      const { step: from, elapsedSeconds: since } = first ?? { step: 0, elapsedSeconds: 0 };
      return ((elapsedSeconds - since) / Math.max(1, step - from)) * (totalSteps - step);
    },
  };
}

interface Part {
  text: string;
  /** With its colours. */
  styled: string;
}

const BAR_WIDTHS = { least: 8, most: 36 };
const GAP = '  ';

/**
 * The line for a terminal: a bar as wide as there is room for, then what matters most; the rest where it fits.
 * @param losses of the steps so far, for the small curve
 */
export function progressLine(
  state: ProgressState,
  secondsLeft: number,
  losses: readonly number[],
  width: number,
  style: Styler,
): string {
  const { step, totalSteps, epoch, loss, learningRate, tokensPerSecond, elapsedSeconds } = state;
  const share = step / totalSteps;
  const plain = (text: string): Part => ({ text, styled: text });
  const labelled = (label: string, value: string): Part => ({
    text: `${label} ${value}`,
    styled: `${style('dim', label)} ${style('bold', value)}`,
  });
  const curve = sparkline(losses);
  const left = step === totalSteps ? 'done' : `${formatDuration(secondsLeft)} left`;
  const parts = {
    percent: plain(`${String(Math.floor(100 * share)).padStart(3)} %`),
    step: labelled('step', `${String(step).padStart(String(totalSteps).length)}/${totalSteps}`),
    epoch: labelled('epoch', epoch.toFixed(2)),
    loss: labelled('loss', loss.toFixed(4)),
    curve: { text: curve, styled: style('cyan', curve) },
    rate: labelled('lr', formatNumber(learningRate)),
    speed: plain(`${formatCount(tokensPerSecond)} tokens/s`),
    time: plain(formatDuration(elapsedSeconds)),
    left: { text: left, styled: style('green', left) },
  };
  const order = Object.keys(parts) as (keyof typeof parts)[];
  const byWorth: readonly (keyof typeof parts)[] = [
    'step',
    'loss',
    'left',
    'speed',
    'percent',
    'curve',
    'time',
    'epoch',
    'rate',
  ];
  const lengthOf = (names: readonly (keyof typeof parts)[]) =>
    names.reduce((sum, name) => sum + parts[name].text.length + GAP.length, 0);

  const fits = (names: readonly (keyof typeof parts)[], bar: number) => lengthOf(names) - GAP.length + bar <= width;
  const shown: (keyof typeof parts)[] = [];
  for (const name of byWorth) {
    // The four that matter most do without a bar.
    const bar = shown.length < 4 ? 0 : BAR_WIDTHS.least + GAP.length;
    if (!fits([...shown, name], bar)) break;
    shown.push(name);
  }
  if (shown.length === 0) return parts.step.text.slice(0, width);
  const room = Math.min(BAR_WIDTHS.most, width - lengthOf(shown));
  const bar = room >= BAR_WIDTHS.least ? [drawBar(share, room, style)] : [];
  return [...bar, ...order.filter((name) => shown.includes(name)).map((name) => parts[name].styled)].join(GAP);
}

/** Half cells make the bar move twice as often. */
function drawBar(share: number, width: number, style: Styler): string {
  const halves = Math.round(share * width * 2);
  const full = '━'.repeat(Math.floor(halves / 2)) + (halves % 2 === 1 ? '╸' : '');
  return style('green', full) + style('dim', '─'.repeat(width - full.length));
}

const LEVELS = '▁▂▃▄▅▆▇█';
const CURVE_WIDTH = 12;

/** A curve of one line's height over all values: means over equal shares of them. */
export function sparkline(values: readonly number[]): string {
  const cells = Math.min(CURVE_WIDTH, values.length);
  const means = Array.from({ length: cells }, (_, i) => {
    const share = values.slice(Math.floor((i * values.length) / cells), Math.floor(((i + 1) * values.length) / cells));
    return share.reduce((sum, value) => sum + value, 0) / share.length;
  });
  const [low, high] = [Math.min(...means), Math.max(...means)];
  const level = (mean: number) => (high > low ? Math.round(((mean - low) / (high - low)) * (LEVELS.length - 1)) : 0);
  return means
    .map((mean) => LEVELS[level(mean)] ?? LEVELS[0])
    .join('')
    .padEnd(CURVE_WIDTH);
}
