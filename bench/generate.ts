// SPDX-License-Identifier: Apache-2.0
/** Generation, batch 1, greedy, carried state: tokens a second around positions 10 to 10,000 must be the same. */
import { stream } from '../src/generation/index.ts';
import { digits, nativeBackend, printHeader, printTable } from './helpers/report.ts';
import { benchModel } from './helpers/steps.ts';

const MODELS: [name: string, positions: number[]][] = [
  ['mamba-5m', [10, 100, 1000, 10_000]],
  ['130m', [10, 100]],
];
/** Tokens of one measurement. */
const WINDOW = 50;

printHeader('generation: tokens/s over 50 tokens from a position, batch 1, greedy');
await nativeBackend();
const rows: (string | number)[][] = [];
for (const [name, positions] of MODELS) {
  const model = await benchModel(name);
  const run = (maxNewTokens: number) => stream(model, [[1, 2, 3]], { maxNewTokens, eosTokenId: null });
  for await (const _ of run(WINDOW));
  const arrivals: number[] = [];
  const maxNewTokens = (positions.at(-1) as number) + WINDOW + 1;
  for await (const _ of run(maxNewTokens)) arrivals.push(performance.now());
  for (const position of positions) {
    const took = (arrivals[position + WINDOW] as number) - (arrivals[position] as number);
    rows.push([name, position, digits((1000 * WINDOW) / took)]);
  }
  model.dispose();
}
printTable(['model', 'position', 'tokens/s'], rows);
