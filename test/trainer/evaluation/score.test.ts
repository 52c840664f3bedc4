// SPDX-License-Identifier: Apache-2.0
/** Losses over windows with carried state against one forward pass, and against transformers' golden loss. */
import { join } from 'node:path';
import { beforeAll, expect, it, onTestFinished } from 'vitest';
import { MambaForCausalLM } from '../../../src/model/causal_lm.ts';
import { createRandom } from '../../../src/random.ts';
import { scoreSequences } from '../../../trainer/evaluation/score.ts';
import { readGolden } from '../../golden/golden.ts';
import { forEachBackend } from '../../helpers/backends.ts';
import { expectClose } from '../../helpers/compare.ts';
import { liveMemory } from '../../helpers/memory.ts';

const golden = readGolden('tied');

forEachBackend((backend) => {
  let model: MambaForCausalLM;
  beforeAll(async () => {
    model = await MambaForCausalLM.fromPretrained(join(golden.folder, 'model'), { backend });
    return () => model.dispose();
  });

  /** Rows of random ids of these lengths; of each row's labels the first three are masked. */
  function sequences(lengths: number[]) {
    const random = createRandom({ seed: 3 });
    return lengths.map((length) => {
      const inputIds = Int32Array.from({ length }, () => random.below(model.config.vocabSize));
      return { inputIds, labels: inputIds.map((id, at) => (at < 3 ? -100 : id)) };
    });
  }

  /** Sum and number of the losses of a sequence, by the loss op of training on the whole of it. */
  function oneShot({ inputIds, labels }: { inputIds: Int32Array; labels: Int32Array }): [number, number] {
    const { lossSum, count } = model.lossSum({ inputIds, labels, batch: 1, seqlen: inputIds.length });
    onTestFinished(() => {
      lossSum.dispose();
      count.dispose();
    });
    return [lossSum.dataSync<'float32'>()[0] as number, count.dataSync<'float32'>()[0] as number];
  }

  it('a document of any length has the loss of one forward pass, whatever window and batch', async () => {
    const documents = sequences([40, 5, 1, 23, 4, 32, 2, 33]);
    const expected = documents.map((document) => (document.inputIds.length > 3 ? oneShot(document) : [0, 0]));
    for (const [window, batchSize] of [
      [1, 8],
      [7, 3],
      [32, 1],
      [64, 2],
      [1000, 8],
    ] as const) {
      const found = await scoreSequences(model, documents, { window, batchSize, padTokenId: 0 });
      const sums = found.map((blocks) => blocks.reduce((sum, { loss }) => sum + loss, 0));
      const tokens = found.map((blocks) => blocks.reduce((sum, block) => sum + block.tokens, 0));
      expect(tokens).toEqual(expected.map(([, count]) => count));
      expectClose(
        sums,
        expected.map(([sum = 0]) => sum),
        { rtol: 2e-6, atol: 1e-6, name: `${window} by ${batchSize}` },
      );
      expect(found[0]?.length).toBe(window === 1 ? 37 : Math.ceil(39 / window));
    }
  });

  it('gives the golden loss of transformers', async () => {
    const rows = golden.rows('input_ids');
    const labels = golden.rows('labels').map((row) => Int32Array.from(row));
    const examples = rows.map((ids, row) => ({ inputIds: Int32Array.from(ids), labels: labels[row] as Int32Array }));
    const blocks = (await scoreSequences(model, examples, { window: 5, batchSize: 2, padTokenId: 1 })).flat();
    const sum = blocks.reduce((total, { loss }) => total + loss, 0);
    expectClose([sum / blocks.reduce((total, { tokens }) => total + tokens, 0)], [golden.losses.loss], { rtol: 2e-6 });
  });

  it('frees what it used, also when it is aborted between two windows', async () => {
    const documents = sequences([20, 9]);
    await scoreSequences(model, documents, { window: 8, batchSize: 2, padTokenId: 0 });
    const before = liveMemory();
    await scoreSequences(model, documents, { window: 4, batchSize: 2, padTokenId: 0 });
    expect(liveMemory()).toEqual(before);

    const controller = new AbortController();
    let windows = 0;
    const watched = {
      setDropout: () => {},
      positionLosses: (...given: Parameters<MambaForCausalLM['positionLosses']>) => {
        windows += 1;
        controller.abort(new Error('enough'));
        return model.positionLosses(...given);
      },
    };
    const options = { window: 4, batchSize: 2, padTokenId: 0, signal: controller.signal };
    await expect(scoreSequences(watched, documents, options)).rejects.toThrow('enough');
    expect(windows).toBe(1);
    expect(liveMemory()).toEqual(before);
  });

  it('refuses a target that is no id', () => {
    expect(() => model.positionLosses({ inputIds: [[1, 2]] }, Int32Array.of(1, model.config.vocabSize))).toThrow(
      /labels: /,
    );
  });
});
