// SPDX-License-Identifier: Apache-2.0
/** The token cache: the same tokens as without it, rebuilt when anything is not what was written, in threads and not. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { tableFromIPC } from 'apache-arrow';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type LoadExamplesOptions, loadExamples, type Sequence, type TokenizedDataset } from '../../datasets/index.ts';
import { createRandom } from '../../src/random.ts';
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts';

const tokenizer = loadTokenizer('models/mamba-5m');
const QUICKSTART = 'datasets/quickstart/train.jsonl';
let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'mambatune-cache-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Loaded extends TokenizedDataset {
  messages: string[];
  sequences: Sequence[];
}

async function load(path: string, options: Partial<LoadExamplesOptions> = {}): Promise<Loaded> {
  const messages: string[] = [];
  const dataset = await loadExamples({ path }, tokenizer, {
    seed: 0,
    maxLength: 256,
    onMessage: (line) => messages.push(line),
    ...options,
  });
  const sequences = Array.from(
    { length: dataset.examples.length },
    (_, index) => dataset.examples.at(index) as Sequence,
  );
  expect(dataset.examples.at(sequences.length)).toBeUndefined();
  dataset.close?.();
  return { ...dataset, messages, sequences };
}

/** A file of its own, and its cache's folder. */
function project(name: string, records = 300): { path: string; cacheDir: string } {
  const [path, cacheDir] = [join(folder, `${name}.jsonl`), join(folder, `${name}.cache`)];
  const lines = readFileSync(QUICKSTART, 'utf8').split('\n').slice(0, records);
  writeFileSync(path, `${lines.join('\n')}\n`);
  return { path, cacheDir };
}

const arrowOf = (cacheDir: string) => readdirSync(cacheDir).filter((name) => name.endsWith('.arrow'));

describe('the token cache', () => {
  it('gives what memory gives, from one Arrow file and its description', async () => {
    const { path, cacheDir } = project('same');
    const memory = await load(path, { threads: 1 });
    const built = await load(path, { cacheDir });
    const read = await load(path, { cacheDir });
    for (const { sequences, report, messages, examples } of [built, read]) {
      expect(sequences).toEqual(memory.sequences);
      expect(report).toEqual(memory.report);
      expect(messages).toEqual(memory.messages);
      expect(examples.tokenCounts).toEqual(memory.examples.tokenCounts);
    }
    expect(readdirSync(cacheDir)).toHaveLength(2);
    const table = tableFromIPC(readFileSync(join(cacheDir, arrowOf(cacheDir)[0] as string)));
    expect(table.numRows).toBe(memory.examples.length);
    expect(Array.from(table.getChild('labels')?.get(7))).toEqual(Array.from(memory.sequences[7]?.labels ?? []));
  });

  it('is another for another file, option or format, and the same under another name', async () => {
    const { path, cacheDir } = project('keys', 20);
    await load(path, { cacheDir });
    await load(path, { cacheDir, maxLength: 32 });
    await load(path, { cacheDir, completionOnlyLoss: false });
    const copy = join(folder, 'copy.jsonl');
    writeFileSync(copy, readFileSync(path));
    expect((await load(copy, { cacheDir })).report.name).toBe(copy);
    expect(arrowOf(cacheDir)).toHaveLength(3);
    writeFileSync(path, readFileSync(path, 'utf8').replace('n.', 'm.'));
    const changed = await load(path, { cacheDir });
    expect(arrowOf(cacheDir)).toHaveLength(4);
    expect(changed.report.sha256).toBe((await load(path)).report.sha256);
  });

  it('is built anew when a byte of it has changed, and says so', async () => {
    const { path, cacheDir } = project('damaged', 60);
    const { sequences } = await load(path, { cacheDir });
    const [name] = arrowOf(cacheDir);
    const [arrow, sidecar] = [
      join(cacheDir, name as string),
      join(cacheDir, (name as string).replace('.arrow', '.json')),
    ];
    const [bytes, description] = [readFileSync(arrow), readFileSync(sidecar, 'utf8')];
    const random = createRandom({ seed: 3 });
    const damages: [what: string, reason: RegExp][] = [
      ['bit', /its content is not what was written/],
      ['cut', /it has \d+ bytes, \d+ were written/],
      ['gone', /ENOENT/],
      ['other key', /was written for other data or settings/],
      ['no JSON', /this is not valid JSON/],
    ];
    for (const [what, reason] of damages) {
      if (what === 'bit') {
        const at = random.below(bytes.length);
        const damaged = Buffer.from(bytes);
        damaged[at] = (damaged[at] as number) ^ (1 << random.below(8));
        writeFileSync(arrow, damaged);
      }
      if (what === 'cut') writeFileSync(arrow, bytes.subarray(0, bytes.length - 1));
      if (what === 'gone') rmSync(arrow);
      if (what === 'other key') writeFileSync(sidecar, description.replace('"maxLength":256', '"maxLength":255'));
      if (what === 'no JSON') writeFileSync(sidecar, description.slice(0, 100));
      const again = await load(path, { cacheDir });
      expect(again.sequences).toEqual(sequences);
      expect(again.messages[0], what).toMatch(/^token cache .*\.arrow: /);
      expect(again.messages[0], what).toMatch(reason);
      expect(again.messages[0], what).toMatch(/; building it anew$/);
      expect(readFileSync(arrow)).toEqual(bytes);
      expect((await load(path, { cacheDir })).messages).toEqual(again.messages.slice(1));
    }
  });

  it('leaves nothing behind when a record is broken, and tells of skipped ones each time', async () => {
    const { path, cacheDir } = project('broken', 60);
    writeFileSync(path, `${readFileSync(path, 'utf8')}broken\n{"prompt": "a"}\n`);
    await expect(load(path, { cacheDir })).rejects.toThrow(/broken\.jsonl:61: not valid JSON/);
    expect(readdirSync(cacheDir)).toEqual([]);
    for (const _ of ['built', 'read']) {
      const { messages, report } = await load(path, { cacheDir, onBadRecord: 'skip' });
      expect(messages[0]).toMatch(
        /2 bad records were left out \(on_bad_record: skip\)\. The first: .*broken\.jsonl:61:/,
      );
      expect(report.records).toBe(60);
    }
  });

  it('says when its folder cannot be written', async () => {
    const { path } = project('unwritable', 5);
    const file = join(folder, 'file');
    writeFileSync(file, '');
    await expect(load(path, { cacheDir: join(file, 'cache') })).rejects.toThrow(/^cannot write .*file\/cache.*: /);
  });
});

describe('threads', () => {
  it('give the same as one, in the same order, with the same faults', async () => {
    const { path } = project('threads', 840);
    const text = readFileSync(path, 'utf8');
    writeFileSync(path, `${text}${text}{"prompt": 1, "completion": ""}\n${text}`);
    const settings = { onBadRecord: 'skip' as const, maxLength: 64 };
    const progress: number[] = [];
    const several = await load(path, {
      ...settings,
      threads: 2,
      onProgress: ({ records, fraction }) => {
        expect(fraction).toBeLessThanOrEqual(1);
        progress.push(records);
      },
    });
    const one = await load(path, { ...settings, threads: 1 });
    expect(several.report).toEqual(one.report);
    expect(several.sequences).toEqual(one.sequences);
    expect(several.messages).toEqual(one.messages);
    expect(progress.at(-1)).toBe(3 * 840);
    expect(progress.length).toBeGreaterThan(5);
    expect(statSync(path).size).toBeGreaterThan(0);
  });

  it('report a record that cannot be tokenized with its place', async () => {
    const path = join(folder, 'ids.jsonl');
    const good = `${JSON.stringify({ input_ids: [1, 2, 3] })}\n`;
    writeFileSync(path, `${good.repeat(3000)}{"input_ids": [1, 99999]}\n${good}`);
    await expect(load(path, { threads: 2 })).rejects.toThrow(/ids\.jsonl:3001: token 1 has id 99999/);
  });
});
