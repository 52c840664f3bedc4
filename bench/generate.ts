// SPDX-License-Identifier: Apache-2.0
/**
 * Generation, batch 1, greedy, carried state: tokens a second around positions 10 to 10,000 must be the same. `--backend=cuda`
 * measures batches of 1 and 64 of a 130m model on the GPU, in each precision.
 */
import { MATMUL_PRECISIONS, setMatmulPrecision } from '../src/backends/precision.ts';
import { stream } from '../src/generation/index.ts';
import type { MambaForCausalLM } from '../src/model/causal_lm.ts';
import { copiedModel } from './helpers/gpu_steps.ts';
import { benchBackend, digits, isOnGpu, printHeader, printTable } from './helpers/report.ts';
import { benchModel } from './helpers/steps.ts';

const MODELS: [name: string, positions: number[]][] = [
  ['mamba-5m', [10, 100, 1000, 10_000]],
  ['130m', [10, 100]],
];
/** Tokens of one measurement. */
const WINDOW = 50;

/** What the GPU must reach with 130m, tokens/s of all rows together. */
const GPU_BATCHES: [batch: number, atLeast: number][] = [
  [1, 2000],
  [64, 60_000],
];
const GPU_PROMPT = 32;
/** Positions before and of the measurement: the first steps run as they come, or are recorded. */
const [GPU_WARM, GPU_WINDOW] = [64, 512];

/** Milliseconds at which each position of the first row came. */
async function arrivalsOf(model: MambaForCausalLM, prompts: number[][], maxNewTokens: number) {
  const arrivals: number[] = [];
  for await (const { row } of stream(model, prompts, { maxNewTokens, eosTokenId: null })) {
    if (row === 0) arrivals.push(performance.now());
  }
  return arrivals;
}

async function onCpu(): Promise<void> {
  printHeader('generation: tokens/s over 50 tokens from a position, batch 1, greedy');
  const rows: (string | number)[][] = [];
  for (const [name, positions] of MODELS) {
    const model = await benchModel(name);
    await arrivalsOf(model, [[1, 2, 3]], WINDOW);
    const arrivals = await arrivalsOf(model, [[1, 2, 3]], (positions.at(-1) as number) + WINDOW + 1);
    for (const position of positions) {
      const took = (arrivals[position + WINDOW] as number) - (arrivals[position] as number);
      rows.push([name, position, digits((1000 * WINDOW) / took)]);
    }
    model.dispose();
  }
  printTable(['model', 'position', 'tokens/s'], rows);
}

async function onGpu(): Promise<void> {
  printHeader(
    `generation, 130m, carried state: tokens/s of all rows, positions ${GPU_WARM} to ${GPU_WARM + GPU_WINDOW}`,
  );
  const model = copiedModel('130m');
  const rows: (string | number)[][] = [];
  for (const precision of MATMUL_PRECISIONS) {
    setMatmulPrecision(precision);
    for (const [batch, atLeast] of GPU_BATCHES) {
      const prompts = Array.from({ length: batch }, (_, row) =>
        Array.from({ length: GPU_PROMPT }, (_, i) => row + 7 * i),
      );
      const arrivals = await arrivalsOf(model, prompts, GPU_WARM + GPU_WINDOW);
      const took = (arrivals.at(-1) as number) - (arrivals[GPU_WARM - 1] as number);
      rows.push([precision, batch, digits((1000 * GPU_WINDOW * batch) / took), digits(took / GPU_WINDOW), atLeast]);
    }
  }
  printTable(['matmul_precision', 'batch', 'tokens/s, greedy', 'ms a step', 'at least'], rows);
}

await benchBackend();
await (isOnGpu ? onGpu() : onCpu());
