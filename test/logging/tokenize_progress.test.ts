// SPDX-License-Identifier: Apache-2.0
/** The progress of tokenizing: a bar on a terminal, nothing elsewhere; and that a cache being built has one. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadExamples } from '../../datasets/index.ts';
import { createTokenizeProgress, formatTokenizing } from '../../src/logging/tokenize_progress.ts';
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

const state = { name: 'quotes.jsonl', records: 12_345, tokens: 1_234_567, fraction: 0.25, seconds: 3 };
const LINE = 'tokenizing quotes.jsonl  12,345 records  1,234,567 tokens  411,522 tokens/s  3.0s (9.0s left)';

function fakeStream(isTTY: boolean, columns = 200) {
  const written: string[] = [];
  return { isTTY, columns, written, write: (text: string) => written.push(text) };
}

describe('the progress of tokenizing', () => {
  it('says records, tokens, speed and the time left', () => {
    expect(formatTokenizing(state)).toBe(LINE);
  });

  it('draws a bar over itself on a terminal, and clears it at the end', () => {
    const stream = fakeStream(true);
    const draw = createTokenizeProgress(stream);
    draw({ ...state, seconds: 0.5 });
    expect(stream.written).toEqual([]);
    draw(state);
    expect(stream.written).toHaveLength(1);
    expect(stream.written[0]?.startsWith('\r\x1b[K')).toBe(true);
    expect(stream.written[0]?.match(/━/g)).toHaveLength(5);
    expect(stream.written[0]?.match(/─/g)).toHaveLength(15);
    expect(stream.written[0]).toContain(LINE);
    draw({ ...state, fraction: 1 });
    expect(stream.written.slice(1)).toEqual(['\r\x1b[K']);
  });

  it('stays within the width of the terminal, and silent where there is none', () => {
    const narrow = fakeStream(true, 60);
    createTokenizeProgress(narrow)(state);
    expect(narrow.written[0]?.split('  ').slice(1).join('  ')).toBe(LINE.slice(0, 60 - 23));
    const pipe = fakeStream(false);
    createTokenizeProgress(pipe)(state);
    expect(pipe.written).toEqual([]);
  });

  it('is shown while a token cache is built, and not when it is read', async () => {
    const folder = temporaryFolder();
    const path = join(folder, 'quotes.jsonl');
    writeFileSync(path, '{"text": "a first line"}\n'.repeat(24_000));
    const shown = async () => {
      const stream = fakeStream(true);
      const draw = createTokenizeProgress(stream);
      const { close } = await loadExamples({ path }, loadTokenizer('models/mamba-5m'), {
        cacheDir: join(folder, 'cache'),
        threads: 1,
        seed: 0,
        onMessage: () => {},
        // As if it took longer: what is done within a second is not shown.
        onProgress: (progress) => draw({ ...progress, seconds: progress.seconds + 1 }),
      });
      close?.();
      return stream.written;
    };
    const built = await shown();
    expect(built[0]).toContain(`tokenizing ${path}  `);
    expect(built.at(-1)).toBe('\r\x1b[K');
    expect(await shown()).toEqual([]);
  });
});
