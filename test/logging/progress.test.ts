// SPDX-License-Identifier: Apache-2.0
/** The progress line on a terminal and elsewhere, and colours. */
import { afterEach, describe, expect, it, vi } from 'vitest';
import { createLogger, stylerFor } from '../../src/logging/logger.ts';
import { createProgress, formatProgress, type ProgressState } from '../../src/logging/progress.ts';

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
    expect(formatProgress(state)).toBe(LINE);
  });

  it('writes plain lines, on log only, where there is no terminal', () => {
    const stream = fakeStream(false);
    const progress = createProgress(stream);
    progress.step(state);
    progress.log(state);
    progress.message('saved');
    progress.finish();
    expect(stream.written).toEqual([`${LINE}\n`, 'saved\n']);
  });

  it('redraws one line on a terminal and puts messages above it', () => {
    vi.stubEnv('NO_COLOR', '1');
    vi.stubEnv('TERM', 'xterm');
    const stream = fakeStream(true);
    const progress = createProgress(stream);
    progress.step(state);
    progress.log(state);
    progress.message('saved');
    progress.finish();
    const drawn = `\r\x1b[K${'━'.repeat(4)}${'─'.repeat(16)}  ${LINE}`;
    expect(stream.written).toEqual([drawn, '\r\x1b[K', 'saved\n', drawn, drawn, '\n']);
  });

  it('does not redraw faster than the eye, but always the last step', () => {
    vi.stubEnv('NO_COLOR', '1');
    vi.stubEnv('TERM', 'xterm');
    const stream = fakeStream(true);
    const progress = createProgress(stream);
    for (let step = 1; step <= 630; step++) progress.step({ ...state, step });
    expect(stream.written.length).toBeLessThan(100);
    expect(stream.written.at(-1)).toContain('step 630/630');
  });

  it('never wraps on a narrow terminal', () => {
    vi.stubEnv('TERM', 'xterm');
    const stream = fakeStream(true, 40);
    createProgress(stream).step(state);
    expect(stream.written).toEqual([`\r\x1b[K${LINE.slice(0, 39)}`]);
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
