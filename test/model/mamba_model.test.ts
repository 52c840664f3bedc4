// SPDX-License-Identifier: Apache-2.0
/** The model without its head. */
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { MambaModel } from '../../src/model/mamba_model.ts';
import { readGolden } from '../golden/golden.ts';
import { forEachBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { expectNoLeak } from '../helpers/memory.ts';

forEachBackend((backend) => {
  it('gives the output of norm_f, the hidden states and a state to continue from', async () => {
    const golden = readGolden('tied');
    const model = await MambaModel.fromPretrained(join(golden.folder, 'model'), { backend });
    const inputIds = golden.rows('input_ids');
    model.forward({ inputIds: [[0]] }).lastHiddenState.dispose();
    expectNoLeak(() => {
      const { lastHiddenState, hiddenStates = [] } = model.forward({ inputIds, outputHiddenStates: true });
      const whole = golden.floats('hidden_states').slice(-lastHiddenState.size);
      expectClose(lastHiddenState.dataSync(), whole, { rtol: 1e-5 });
      expect(hiddenStates).toHaveLength(model.config.numHiddenLayers + 1);
      for (const hidden of hiddenStates) hidden.dispose();
      const first = model.forward({ inputIds: inputIds.map((row) => row.slice(0, 20)), useCache: true });
      const rest = model.forward({ inputIds: inputIds.map((row) => row.slice(20)), cacheParams: first.cacheParams });
      const [batch, seqlen, width] = lastHiddenState.shape;
      const tail = Array.from({ length: batch }, (_, row) =>
        Array.from(whole.slice((row * seqlen + 20) * width, (row + 1) * seqlen * width)),
      );
      expectClose(rest.lastHiddenState.dataSync(), tail.flat(), { rtol: 1e-5 });
      first.cacheParams?.dispose();
      for (const tensor of [lastHiddenState, first.lastHiddenState, rest.lastHiddenState])
        if (!tensor.isDisposed) tensor.dispose();
    });
    model.dispose();
  });

  it('logitsToKeep computes the logits of the last positions alone', async () => {
    const golden = readGolden('tied');
    const model = await MambaForCausalLM.fromPretrained(join(golden.folder, 'model'), { backend });
    const inputIds = golden.rows('input_ids');
    const all = model.forward({ inputIds }).logits;
    const last = model.forward({ inputIds, logitsToKeep: 2 }).logits;
    const [batch, seqlen, vocabSize] = all.shape;
    expect(last.shape).toEqual([batch, 2, vocabSize]);
    const whole = all.dataSync();
    const tail = Array.from({ length: batch }, (_, row) =>
      Array.from(whole.slice(((row + 1) * seqlen - 2) * vocabSize, (row + 1) * seqlen * vocabSize)),
    );
    expectClose(last.dataSync(), tail.flat(), { rtol: 1e-6 });
    expect(() => model.forward({ inputIds, logitsToKeep: -1 })).toThrow('logitsToKeep is -1');
    all.dispose();
    last.dispose();
    model.dispose();
  });
});
