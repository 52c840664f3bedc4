// SPDX-License-Identifier: Apache-2.0
/** Data: tokens/s of tokenization, in one thread and in all, and of reading the token cache, in order and shuffled. */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { epochOrder, loadExamples } from '../datasets/index.ts';
import { loadTokenizer } from '../src/tokenizer/tokenizer.ts';
import { digits, printHeader, printTable } from './helpers/report.ts';

const COPIES = 60;

printHeader(`data: the quickstart's training records ${COPIES} times, tokenizer of mamba-5m`);
const folder = mkdtempSync(join(tmpdir(), 'mambatune-bench-'));
try {
  const path = join(folder, 'data.jsonl');
  writeFileSync(path, readFileSync('datasets/quickstart/train.jsonl', 'utf8').repeat(COPIES));
  const tokenizer = loadTokenizer('models/mamba-5m');
  const messages = { seed: 0, onMessage: () => {} };
  const rows: [string, string, string][] = [];
  const measure = async <T>(what: string, tokensOf: (result: T) => number, run: () => Promise<T>): Promise<T> => {
    const from = performance.now();
    const result = await run();
    const seconds = (performance.now() - from) / 1000;
    rows.push([what, digits(seconds), digits(tokensOf(result) / seconds)]);
    return result;
  };
  const load = (threads: number, cacheDir?: string) =>
    loadExamples({ path }, tokenizer, { ...messages, threads, ...(cacheDir !== undefined && { cacheDir }) });
  const all = ({ report }: Awaited<ReturnType<typeof load>>) => report.tokens;

  await measure('tokenize, 1 thread, into memory', all, () => load(1));
  const threads = availableParallelism();
  await measure(`tokenize, ${threads} threads, into the cache`, all, () => load(threads, folder));
  const { examples, report, close } = await measure('open the cache (checks its content)', all, () =>
    load(threads, folder),
  );
  for (const shuffled of [false, true]) {
    await measure(
      `read the cache, ${shuffled ? 'shuffled' : 'in order'}`,
      (tokens: number) => tokens,
      async () => {
        let tokens = 0;
        for (const index of epochOrder(examples.length, 0, 0, shuffled))
          tokens += examples.at(index)?.inputIds.length ?? 0;
        return tokens;
      },
    );
  }
  close?.();
  console.log(`\n${report.records} records, ${report.tokens} tokens, ${(statSync(path).size / 1e6).toFixed(1)} MB`);
  printTable(['what', 'seconds', 'tokens/s'], rows);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
