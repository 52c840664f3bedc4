// SPDX-License-Identifier: Apache-2.0
/** Merging: the merged model computes what the adapted one does, tied or not; the base model in memory stays as it is. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { getPeftModel, LoraConfig, mergeAndSave, PeftModel } from '../../adapters/index.ts';
import { UserError } from '../../src/errors.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { MambaConfig } from '../../src/model/config.ts';
import { readGolden } from '../golden/golden.ts';
import { forEachBackend, onBackend, testedBackends } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

const ROWS = [[3, 14, 15, 9, 26, 5, 35, 8, 9, 7]];
const CONFIG = new MambaConfig({ vocabSize: 40, hiddenSize: 16, numHiddenLayers: 2, stateSize: 4, timeStepRank: 2 });

function logitsOf(model: MambaForCausalLM, inputIds = ROWS): Float32Array {
  const { logits } = model.forward({ inputIds });
  const values = logits.dataSync<'float32'>().slice();
  logits.dispose();
  return values;
}

function disposeLater(model: MambaForCausalLM): MambaForCausalLM {
  onTestFinished(() => model.dispose());
  return model;
}

forEachBackend((backend) => {
  it.each(['tied', 'rslora'])('%s: the merged model gives the golden logits of the adapted one', async (name) => {
    const golden = readGolden(name);
    const model = disposeLater(await MambaForCausalLM.fromPretrained(join(golden.folder, 'model'), { backend }));
    const wasTied = model.config.tieWordEmbeddings;
    const peft = PeftModel.fromPretrained(model, join(golden.folder, 'adapter'));
    const folder = join(temporaryFolder(), 'merged');
    const adapted = logitsOf(model, golden.rows('input_ids'));
    const result = await mergeAndSave(peft, folder);
    expect(result.untied).toBe(wasTied);
    expect(result.merged).toHaveLength(7);
    expect(logitsOf(model, golden.rows('input_ids')), 'the model in memory').toEqual(adapted);

    const merged = disposeLater(await MambaForCausalLM.fromPretrained(folder, { backend }));
    expect(merged.config.tieWordEmbeddings).toBe(false);
    expectClose(logitsOf(merged, golden.rows('input_ids')), golden.floats('lora_logits'), {
      rtol: 1e-5,
      name: 'merged logits',
    });
  });
});

onBackend(testedBackends()[0] ?? 'cpu', () => {
  describe.each([true, false])('a model whose head is tied: %s', (tieWordEmbeddings) => {
    const adapted = (targetModules: string[]) => {
      const model = disposeLater(MambaForCausalLM.fromConfig(CONFIG.with({ tieWordEmbeddings }), { seed: 2 }));
      return getPeftModel(model, new LoraConfig({ r: 4, loraAlpha: 6, targetModules, initLoraWeights: false }));
    };

    it.each([['embeddings'], ['in_proj', 'x_proj', 'dt_proj', 'out_proj'], ['embeddings', 'dt_proj']])(
      'adapted at %s and more',
      async (...targets) => {
        const peft = adapted(targets);
        const folder = join(temporaryFolder(), 'merged');
        const { untied, merged: names } = await mergeAndSave(peft, folder);
        const onEmbeddings = targets.includes('embeddings');
        expect(untied).toBe(onEmbeddings && tieWordEmbeddings);
        expect(names).toHaveLength(Number(onEmbeddings) + 2 * (targets.length - Number(onEmbeddings)));
        const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as Record<string, unknown>;
        expect(config.tie_word_embeddings).toBe(tieWordEmbeddings && !untied);
        const merged = disposeLater(
          await MambaForCausalLM.fromPretrained(folder, { backend: testedBackends()[0] ?? 'cpu' }),
        );
        expectClose(logitsOf(merged), logitsOf(peft.model), { rtol: 1e-5 });
        const base = disposeLater(MambaForCausalLM.fromConfig(CONFIG.with({ tieWordEmbeddings }), { seed: 2 }));
        expect(
          () => expectClose(logitsOf(merged), logitsOf(base), { rtol: 1e-2 }),
          'the adapter changes the logits',
        ).toThrow();
      },
    );
  });

  it('in bf16 the weights are the merged ones rounded', async () => {
    const model = disposeLater(MambaForCausalLM.fromConfig(CONFIG, { seed: 2 }));
    const peft = getPeftModel(model, new LoraConfig({ initLoraWeights: false }));
    const parent = temporaryFolder();
    await mergeAndSave(peft, join(parent, 'f32'));
    await mergeAndSave(peft, join(parent, 'bf16'), { dtype: 'BF16' });
    const backend = testedBackends()[0] ?? 'cpu';
    const [full, half] = await Promise.all(
      ['f32', 'bf16'].map((name) => MambaForCausalLM.fromPretrained(join(parent, name), { backend })),
    );
    if (!full || !half) throw new Error('unreachable');
    disposeLater(full);
    disposeLater(half);
    expect(half.parameters.size).toBe(full.parameters.size);
    for (const [name, parameter] of half.parameters) {
      const exact = full.parameters.get(name)?.dataSync<'float32'>() ?? new Float32Array();
      // Half a unit in the last of bf16's 8 significand bits.
      for (const [i, value] of parameter.dataSync<'float32'>().entries()) {
        const wanted = exact[i] as number;
        expect(Math.abs(value - wanted), `${name} ${i}`).toBeLessThanOrEqual(Math.abs(wanted) * 2 ** -8);
      }
    }
    expect(JSON.parse(readFileSync(join(parent, 'bf16', 'config.json'), 'utf8'))).toMatchObject({ dtype: 'bfloat16' });
  });

  it('refuses a folder that is not empty, and leaves it', async () => {
    const model = disposeLater(MambaForCausalLM.fromConfig(CONFIG));
    const peft = getPeftModel(model, new LoraConfig());
    const folder = join(temporaryFolder(), 'merged');
    await mergeAndSave(peft, folder);
    const before = readFileSync(join(folder, 'model.safetensors'));
    await expect(mergeAndSave(peft, folder)).rejects.toThrow(
      new UserError(`${folder} is not empty; choose another folder, or say that it may be replaced.`),
    );
    expect(readFileSync(join(folder, 'model.safetensors')).equals(before)).toBe(true);
    await mergeAndSave(peft, folder, { overwrite: true });
  });
});
