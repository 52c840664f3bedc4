// SPDX-License-Identifier: Apache-2.0
/** The progress line on a terminal and elsewhere, and colours. */
import { afterEach, describe, expect, it, vi } from 'vitest';
import { createLogger, stylerFor } from '../../src/logging/logger.ts';
import {
  createProgress,
  formatProgress,
  type ProgressState,
  progressLine,
  sparkline,
} from '../../src/logging/progress.ts';

const state: ProgressState = {
  step: 120,
  totalSteps: 630,
  epoch: 0.571,
  loss: 3.92684,
  learningRate: 0.0016222,
  tokensPerSecond: 12345.4,
  elapsedSeconds: 12,
};
const LINE = 'step 120/630  epoch 0.57  loss 3.9268  lr 0.00162  12,345 tokens/s  12s (51s left)';

function fakeStream(isTTY: boolean, columns = 200) {
  const written: string[] = [];
  return { isTTY, columns, written, write: (text: string) => written.push(text) };
}

afterEach(() => vi.unstubAllEnvs());

describe('progress', () => {
  it('says step, epoch, loss, rate, speed and time', () => {
    expect(formatProgress(state, 51)).toBe(LINE);
  });

  it('writes plain lines, on log only, where there is no terminal', () => {
    const stream = fakeStream(false);
    const progress = createProgress(stream);
    progress.step(state);
    progress.log(state);
    progress.message('saved');
    progress.finish();
    expect(stream.written).toEqual([`${LINE.replace('51s', '1:42:00')}\n`, 'saved\n']);
  });

  it('tells the time left by the pace since it was first seen, so that of a resumed run too', () => {
    const stream = fakeStream(false);
    const progress = createProgress(stream);
    for (const [step, elapsedSeconds] of [
      [601, 2],
      [611, 22],
    ] as const) {
      progress.step({ ...state, step, elapsedSeconds });
      progress.log({ ...state, step, elapsedSeconds });
    }
    expect(stream.written[0]).toContain('2.0s (58s left)');
    expect(stream.written[1]).toContain('22s (38s left)');
  });

  it('redraws one line on a terminal and puts messages above it', () => {
    vi.stubEnv('NO_COLOR', '1');
    vi.stubEnv('TERM', 'xterm');
    const stream = fakeStream(true);
    const progress = createProgress(stream);
    progress.step({ ...state, step: 1, elapsedSeconds: 0.1 });
    progress.log(state);
    progress.message('saved');
    progress.finish();
    const bar = '─'.repeat(36);
    const drawn = `\r\x1b[K${bar}    0 %  step   1/630  epoch 0.57  loss 3.9268  ▁             lr 0.00162  12,345 tokens/s  0.1s  1:03 left`;
    expect(stream.written).toEqual([drawn, '\r\x1b[K', 'saved\n', drawn, drawn, '\n']);
  });

  it('does not redraw faster than the eye, but always the last step', () => {
    vi.stubEnv('NO_COLOR', '1');
    vi.stubEnv('TERM', 'xterm');
    const stream = fakeStream(true);
    const progress = createProgress(stream);
    for (let step = 1; step <= 630; step++) progress.step({ ...state, step });
    expect(stream.written.length).toBeLessThan(100);
    expect(stream.written.at(-1)).toContain('100 %  step 630/630');
    expect(stream.written.at(-1)).toMatch(/ done$/);
  });
});

describe('the line of a terminal', () => {
  const losses = Array.from({ length: 120 }, (_, i) => 5 - Math.log(1 + i) / 4);
  const line = (width: number) => progressLine(state, 51, losses, width, (_, text) => text);

  it('has a bar with half cells, a curve of the losses, and everything else where there is room', () => {
    expect(line(160)).toBe(
      '━━━━━━━─────────────────────────────   19 %  step 120/630  epoch 0.57  loss 3.9268  █▅▄▄▃▃▂▂▂▁▁▁  lr 0.00162  12,345 tokens/s  12s  51s left',
    );
  });

  it('drops what matters less as the terminal narrows, and never wraps', () => {
    for (let width = 1; width <= 200; width++) expect(line(width).length, `width ${width}`).toBeLessThanOrEqual(width);
    expect(line(80)).toBe('━━━╸───────────────   19 %  step 120/630  loss 3.9268  12,345 tokens/s  51s left');
    expect(line(50)).toBe('━━╸──────────  step 120/630  loss 3.9268  51s left');
    expect(line(25)).toBe('step 120/630  loss 3.9268');
    expect(line(8)).toBe('step 120');
  });

  it('draws a curve as wide as the losses go', () => {
    expect(sparkline([1, 2, 3])).toBe('▁▅█         ');
    expect(sparkline([2, 2])).toBe('▁▁          ');
    expect(sparkline(Array.from({ length: 24 }, (_, i) => i))).toBe('▁▂▂▃▄▄▅▅▆▇▇█');
  });
});

describe('colours', () => {
  const style = (isTTY: boolean, env: NodeJS.ProcessEnv) => stylerFor(fakeStream(isTTY), env)('red', 'x') !== 'x';

  it('are for terminals, and NO_COLOR turns them off', () => {
    expect(style(true, { TERM: 'xterm' })).toBe(true);
    expect(style(false, { TERM: 'xterm' })).toBe(false);
    expect(style(true, { TERM: 'dumb' })).toBe(false);
    expect(style(true, { TERM: 'xterm', NO_COLOR: '1' })).toBe(false);
    expect(style(true, { TERM: 'xterm', NO_COLOR: '' })).toBe(true);
    expect(style(false, { FORCE_COLOR: '1' })).toBe(true);
    expect(style(false, { FORCE_COLOR: '1', NO_COLOR: '1' })).toBe(false);
  });

  it('leaves a log plain where there is no terminal', () => {
    vi.stubEnv('FORCE_COLOR', '');
    const stream = fakeStream(false);
    const logger = createLogger(stream);
    logger.info('a');
    logger.warn('b');
    logger.error('c');
    expect(stream.written).toEqual(['a\n', 'warning: b\n', 'error: c\n']);
  });
});
