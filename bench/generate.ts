// SPDX-License-Identifier: Apache-2.0
/**
 * Generation, batch 1, greedy, carried state: tokens a second from positions 10 to 100,000, which must be the same, and the share of
 * the memory's bandwidth that reading the weights once a token takes. With MAMBATUNE_NODE_LLAMA_CPP=FOLDER, where node-llama-cpp is
 * installed, llama.cpp generates from the same weights afterwards. `--backend=cuda` measures batches of 1 and 64 of a 130m model on the
 * GPU, in each precision, greedy, and in bfloat16 with each other choice.
 *
 *     npm run bench -- generate [--models mamba-5m,130m] [--dtypes float32,bfloat16] [--positions 10,1000]
 */
import { parseArgs } from 'node:util';
import { loadAddon } from '../src/backends/addon.ts';
import { MATMUL_PRECISIONS, setMatmulPrecision } from '../src/backends/precision.ts';
import { type GenerateOptions, readPrompt, stream } from '../src/generation/index.ts';
import type { MambaForCausalLM } from '../src/model/causal_lm.ts';
import type { WeightDtype } from '../src/model/parameters.ts';
import { copiedModel } from './helpers/gpu_steps.ts';
import { llamaCpp } from './helpers/llama_cpp.ts';
import { measurePeak } from './helpers/peak.ts';
import { benchBackend, digits, isOnGpu, printHeader, printTable } from './helpers/report.ts';
import { benchModel } from './helpers/steps.ts';

const { values: options } = parseArgs({
  options: {
    models: { type: 'string', default: 'mamba-5m,130m' },
    dtypes: { type: 'string', default: 'float32,bfloat16' },
    positions: { type: 'string', default: '10,100,1000,10000,100000' },
    backend: { type: 'string' },
  },
});
/** Tokens of one measurement, and how often it is repeated: the best counts, since other programs only make it slower. */
const WINDOW = 50;
const REPEATS = 5;
/** A position's prompt must be read first; of the 130m model that takes a millisecond a token. */
const FURTHEST: Record<string, number> = { '130m': 10_000 };

/** What the GPU must reach with 130m, tokens/s of all rows together. */
const GPU_BATCHES: [batch: number, atLeast: number][] = [
  [1, 2000],
  [64, 60_000],
];
/** What the device chooses by beside the likeliest, and last what it cannot: every step's logits are read then. */
const GPU_CHOICES: [name: string, options: GenerateOptions][] = [
  ['top_k 50', { doSample: true, seed: 1 }],
  ['top_k 50, top_p 0.9', { doSample: true, seed: 1, topP: 0.9 }],
  ['top_p 0.9', { doSample: true, seed: 1, topK: 0, topP: 0.9 }],
  ['all', { doSample: true, seed: 1, topK: 0 }],
  ['greedy, repetition_penalty 1.2', { repetitionPenalty: 1.2 }],
  ['top_k 50, on the host', { doSample: true, seed: 1, noRepeatNgramSize: 10_000 }],
];
const GPU_PROMPT = 32;
/** Positions before and of the measurement: the first steps run as they come, or are recorded. */
const [GPU_WARM, GPU_WINDOW] = [64, 512];

/** Milliseconds at which each position of the first row came. */
async function arrivalsOf(
  model: MambaForCausalLM,
  prompts: number[][],
  maxNewTokens: number,
  options: GenerateOptions,
): Promise<number[]> {
  const arrivals: number[] = [];
  for await (const { row } of stream(model, prompts, { maxNewTokens, eosTokenId: null, ...options })) {
    if (row === 0) arrivals.push(performance.now());
  }
  return arrivals;
}

async function onCpu(): Promise<void> {
  printHeader(`generation: best tokens/s of ${REPEATS} x ${WINDOW} tokens from a position, batch 1, greedy`);
  const { threads } = JSON.parse(loadAddon().addon?.describe(0) ?? '') as { threads: number };
  const bandwidth = measurePeak(threads).readBytes;
  console.log(`# reading memory: ${digits(bandwidth / 1e9)} GB/s`);
  const rows: (string | number)[][] = [];
  for (const name of options.models.split(',')) {
    for (const dtype of options.dtypes.split(',') as WeightDtype[]) {
      const model = await benchModel(name, dtype);
      const bytes = weightBytes(model, dtype);
      for (const position of options.positions.split(',').map(Number)) {
        if (position > (FURTHEST[name] ?? Number.POSITIVE_INFINITY)) continue;
        const seconds = await secondsPerToken(model, position);
        const timing = [digits(1 / seconds), digits(1e6 * seconds)];
        const share = `${digits((100 * bytes) / seconds / bandwidth)} %`;
        rows.push([name, dtype, position, ...timing, digits(bytes / 1e6), digits(bytes / seconds / 1e9), share]);
      }
      model.dispose();
    }
    const peer = await llamaCpp(name, WINDOW);
    if (peer) rows.push([`${name}, llama.cpp`, 'float32', 10, digits(peer), digits(1e6 / peer), '', '', '']);
  }
  printTable(['model', 'weights', 'position', 'tokens/s', 'µs a token', 'MB read', 'GB/s', 'of memory'], rows);
}

async function secondsPerToken(model: MambaForCausalLM, position: number): Promise<number> {
  const prompt = Array.from({ length: position }, (_, i) => (i * 31) % 4000);
  const state = await readPrompt(model, prompt);
  let best = Number.POSITIVE_INFINITY;
  for (let repeat = 0; repeat < REPEATS; repeat++) {
    const arrivals: number[] = [];
    for await (const _ of stream(model, [[]], { state, maxNewTokens: WINDOW + 2, eosTokenId: null })) {
      arrivals.push(performance.now());
    }
    // The first token is chosen from the prompt's logits, and the first step allocates.
    best = Math.min(best, ((arrivals.at(-1) as number) - (arrivals[1] as number)) / 1000 / WINDOW);
  }
  state.dispose();
  return best;
}

/** Of all parameters, the matrices in their type: what a token must read. */
function weightBytes(model: MambaForCausalLM, dtype: WeightDtype): number {
  let bytes = 0;
  for (const [name, { size }] of model.parameters) {
    bytes += size * (dtype === 'bfloat16' && /(embeddings|_proj|lm_head)\.weight$/.test(name) ? 2 : 4);
  }
  return bytes;
}

async function onGpu(): Promise<void> {
  printHeader(
    `generation, 130m, carried state: tokens/s of all rows, positions ${GPU_WARM} to ${GPU_WARM + GPU_WINDOW}`,
  );
  const model = copiedModel('130m');
  const step = async (batch: number, options: GenerateOptions = {}) => {
    const prompts = Array.from({ length: batch }, (_, row) =>
      Array.from({ length: GPU_PROMPT }, (_, i) => row + 7 * i),
    );
    const arrivals = await arrivalsOf(model, prompts, GPU_WARM + GPU_WINDOW, options);
    return ((arrivals.at(-1) as number) - (arrivals[GPU_WARM - 1] as number)) / GPU_WINDOW;
  };
  const speed = (batch: number, milliseconds: number) => digits((1000 * batch) / milliseconds);
  const rows: (string | number)[][] = [];
  for (const precision of MATMUL_PRECISIONS) {
    setMatmulPrecision(precision);
    for (const [batch, atLeast] of GPU_BATCHES) {
      const took = await step(batch);
      rows.push([precision, batch, speed(batch, took), digits(took), atLeast]);
    }
  }
  printTable(['matmul_precision', 'batch', 'tokens/s, greedy', 'ms a step', 'at least'], rows);

  const sampled: (string | number)[][] = [];
  for (const [batch] of GPU_BATCHES) {
    const greedy = await step(batch);
    for (const [name, options] of [['greedy', {}] as (typeof GPU_CHOICES)[number], ...GPU_CHOICES]) {
      const took = await step(batch, options);
      sampled.push([name, batch, speed(batch, took), digits(took), digits(1000 * (took - greedy))]);
    }
  }
  printTable(['choice', 'batch', 'tokens/s', 'ms a step', 'µs more than greedy'], sampled);
}

await benchBackend();
await (isOnGpu ? onGpu() : onCpu());
