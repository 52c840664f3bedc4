// SPDX-License-Identifier: Apache-2.0
/** llama.cpp beside the project: node-llama-cpp from a folder outside, on the same weights. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { writeGguf } from './gguf.ts';
import { benchModel } from './steps.ts';

/** Of node-llama-cpp 3, what is called here. */
interface NodeLlamaCpp {
  getLlama(options: { gpu: false; build: 'never'; logLevel: 'error' }): Promise<{
    loadModel(options: { modelPath: string }): Promise<{
      createContext(options: { contextSize: number; threads: number }): Promise<{
        getSequence(): { evaluate(tokens: number[], options: { temperature: 0 }): AsyncIterable<number> };
      }>;
      dispose(): Promise<void>;
    }>;
  }>;
}

/** Best tokens/s over 1 and 2 threads of `window` greedy tokens after a short prompt; undefined, and said loudly, where it is not installed. */
export async function llamaCpp(name: string, window: number): Promise<number | undefined> {
  const folder = process.env.MAMBATUNE_NODE_LLAMA_CPP;
  const entry = folder && resolve(folder, 'node_modules', 'node-llama-cpp', 'dist', 'index.js');
  if (!entry || !existsSync(entry)) {
    const reason = folder
      ? `${entry} does not exist`
      : 'MAMBATUNE_NODE_LLAMA_CPP does not name a folder it is installed in';
    console.log(`# LLAMA.CPP NOT MEASURED on ${name}: ${reason}`);
    return undefined;
  }
  const temporary = mkdtempSync(join(tmpdir(), 'mambatune-bench-'));
  try {
    const modelPath = join(temporary, `${name}.gguf`);
    const source = await benchModel(name);
    writeGguf(modelPath, source);
    source.dispose();
    const { getLlama } = (await import(pathToFileURL(entry).href)) as NodeLlamaCpp;
    const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error' });
    const model = await llama.loadModel({ modelPath });
    let best = 0;
    for (const threads of [1, 2, 1, 2]) {
      const context = await model.createContext({ contextSize: 512, threads });
      best = Math.max(best, await tokensPerSecond(context.getSequence(), window));
    }
    await model.dispose();
    return best;
  } finally {
    rmSync(temporary, { recursive: true });
  }
}

/** Its threads wait for each other by spinning: beside other programs a run may take minutes. */
const LONGEST_MS = 5000;

async function tokensPerSecond(
  sequence: { evaluate(tokens: number[], options: { temperature: 0 }): AsyncIterable<number> },
  window: number,
): Promise<number> {
  const arrivals: number[] = [];
  for await (const _ of sequence.evaluate([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], { temperature: 0 })) {
    arrivals.push(performance.now());
    if (arrivals.length > window || performance.now() - (arrivals[0] as number) > LONGEST_MS) break;
  }
  return (1000 * (arrivals.length - 1)) / ((arrivals.at(-1) as number) - (arrivals[0] as number));
}
