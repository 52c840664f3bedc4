// SPDX-License-Identifier: Apache-2.0
/** Taking an adapter off: the base again to the bit, nothing left in memory, and room for the next one. */
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { getPeftModel, LoraConfig, type LoraConfigFields, PeftModel } from '../../adapters/index.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { bestBackend, onBackend } from '../helpers/backends.ts';
import { liveMemory } from '../helpers/memory.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

const MODEL = 'test/golden/tied/model';

function logitsOf(model: MambaForCausalLM): Float32Array {
  const { logits } = model.forward({ inputIds: [[3, 1, 4, 1, 5, 9, 2, 6]] });
  const values = logits.dataSync<'float32'>().slice();
  logits.dispose();
  return values;
}

onBackend(bestBackend, () => {
  it.each<[string, Partial<LoraConfigFields>]>([
    ['lora', { initLoraWeights: false }],
    ['dora and biases', { initLoraWeights: false, useDora: true, bias: 'all' }],
    ['pissa', { initLoraWeights: 'pissa', targetModules: ['in_proj', 'out_proj'] }],
    ['whole modules of a tied model', { initLoraWeights: false, modulesToSave: ['embeddings', 'norm', 'A_log'] }],
  ])('%s', async (_, fields) => {
    const folder = `${temporaryFolder()}/adapter`;
    const other = await MambaForCausalLM.fromPretrained(MODEL, { backend: bestBackend });
    const trained = getPeftModel(other, new LoraConfig({ targetModules: ['x_proj', 'dt_proj'], ...fields }));
    for (const variable of other.trainableParameters().values())
      tf.tidy(() => variable.assign(tf.add(tf.mul(variable, 1.25), 0.01)));
    const adapted = logitsOf(other);
    await trained.savePretrained(folder);
    other.dispose();

    const model = await MambaForCausalLM.fromPretrained(MODEL, { backend: bestBackend });
    const base = logitsOf(model);
    const before = liveMemory();
    for (let time = 0; time < 2; time++) {
      const peftModel = PeftModel.fromPretrained(model, folder);
      const found = logitsOf(model);
      expect(found).not.toEqual(base);
      expect(Math.max(...found.map((value, at) => Math.abs(value - (adapted[at] as number))))).toBeLessThan(1e-3);
      peftModel.unload();
      expect(logitsOf(model)).toEqual(base);
      expect(liveMemory()).toEqual(before);
    }
    model.dispose();
  });
});
