// SPDX-License-Identifier: Apache-2.0
/** Evaluation against the golden loss of transformers, and its weighting. */
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { evaluate } from '../../trainer/index.ts';
import { readGolden } from '../golden/golden.ts';
import { bestBackend, onBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { liveMemory } from '../helpers/memory.ts';

onBackend(bestBackend, () => {
  it('gives the mean over all tokens, whatever the batches', async () => {
    const golden = readGolden('tied');
    const model = await MambaForCausalLM.fromPretrained(join(golden.folder, 'model'), { backend: bestBackend });
    const labels = golden.rows('labels');
    const examples = golden.rows('input_ids').map((ids, row) => ({
      inputIds: Int32Array.from(ids),
      labels: Int32Array.from(labels[row] ?? []),
      promptLength: 0,
    }));
    const counts = labels.map((row) => row.slice(1).filter((label) => label !== -100).length);
    expect(new Set(counts).size, 'rows with different numbers of tokens').toBeGreaterThan(1);
    await evaluate(model, examples);
    const before = liveMemory();
    for (const batchSize of [1, 2, 8]) {
      const progress: number[] = [];
      const result = await evaluate(model, examples, { batchSize, onProgress: (done) => progress.push(done) });
      expectClose([result?.loss ?? 0], [golden.losses.loss], { rtol: 1e-6, name: `loss by ${batchSize}` });
      expect(result).toMatchObject({ perplexity: Math.exp(result?.loss ?? 0), examples: 3 });
      expect(result?.tokens).toBe(counts.reduce((a, b) => a + b));
      expect(progress.at(-1)).toBe(3);
    }
    expect(await evaluate(model, examples, { isInterrupted: () => true })).toBeUndefined();
    expect(liveMemory()).toEqual(before);
    model.dispose();
  });
});
