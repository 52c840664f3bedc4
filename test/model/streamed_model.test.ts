// SPDX-License-Identifier: Apache-2.0
/** A model run part by part from the disk computes what the loaded one does, and leaves nothing in memory. */
import { cpSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { expect, it, onTestFinished } from 'vitest';
import { openDiskAdapter } from '../../adapters/disk_adapter.ts';
import { PeftModel } from '../../adapters/index.ts';
import { openSafetensors } from '../../src/checkpoint/safetensors.ts';
import { writeSafetensors } from '../../src/checkpoint/safetensors_writer.ts';
import { UserError } from '../../src/errors.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { openStreamedModel, type StreamedModel, streamedLogits } from '../../src/model/streamed_model.ts';
import { readGolden } from '../golden/golden.ts';
import { bestBackend, forEachBackend, onBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

function open(folder: string): StreamedModel {
  const model = openStreamedModel(folder);
  onTestFinished(() => model.close());
  return model;
}

forEachBackend((backend) => {
  it.each(['tied', 'rslora', 'falcon_mamba'])('%s: logits of the golden, without and with its adapter', (name) => {
    const golden = readGolden(name);
    const model = open(join(golden.folder, 'model'));
    const rows = golden.rows('input_ids');
    const before = tf.memory().numTensors;
    const adapter = openDiskAdapter(join(golden.folder, 'adapter'), model);
    for (const [key, options] of [
      ['logits', {}],
      ['lora_logits', { attach: adapter.attach }],
    ] as const) {
      const wanted = golden.floats(key);
      const size = wanted.length / rows.length;
      for (const [i, ids] of rows.entries()) {
        const found = streamedLogits(model, ids, options);
        expectClose(found, wanted.subarray(i * size, (i + 1) * size), { rtol: 1e-4, name: `${backend} ${key} ${i}` });
      }
    }
    expect(tf.memory().numTensors).toBe(before);
  });
});

onBackend(bestBackend, () => {
  it('one token; the same bits as the loaded model', async () => {
    const golden = readGolden('tied');
    const folder = join(golden.folder, 'model');
    const model = await MambaForCausalLM.fromPretrained(folder, { backend: bestBackend });
    onTestFinished(() => model.dispose());
    const peft = PeftModel.fromPretrained(model, join(golden.folder, 'adapter'));
    const streamed = open(folder);
    const { attach } = openDiskAdapter(join(golden.folder, 'adapter'), streamed);
    const { logits } = peft.model.forward({ inputIds: [[96]] });
    expect(streamedLogits(streamed, [96], { attach })).toEqual(logits.dataSync());
    logits.dispose();
  });

  it('a tied head can follow the adapted embeddings', () => {
    const golden = readGolden('tied');
    const model = open(join(golden.folder, 'model'));
    const { attach } = openDiskAdapter(join(golden.folder, 'adapter'), model);
    const ids = [1, 2, 3];
    const apart = streamedLogits(model, ids, { attach });
    const both = streamedLogits(model, ids, { attach, adaptTiedHead: true });
    expect(() => expectClose(both, apart, { rtol: 1e-2 })).toThrow();
  });

  it('knows shapes and base values without loading', () => {
    const model = open(join(readGolden('tied').folder, 'model'));
    expect([...model.modules.keys()].slice(0, 3)).toEqual([
      'backbone.embeddings',
      'backbone.layers.0.mixer.in_proj',
      'backbone.layers.0.mixer.conv1d',
    ]);
    expect(model.modules.get('backbone.embeddings')?.weight.shape).toEqual([97, 32]);
    expect(model.parameters.get('backbone.norm_f.weight')?.dataSync()).toHaveLength(32);
  });

  it('names a tensor of the checkpoint that holds NaN', () => {
    const folder = join(temporaryFolder(), 'model');
    cpSync(join(readGolden('tied').folder, 'model'), folder, { recursive: true });
    const path = join(folder, 'model.safetensors');
    const source = openSafetensors(path);
    const tensors = [...source.entries.values()].map(({ name, shape }) => ({
      name,
      shape,
      dtype: 'F32' as const,
      data: source.readFloat32(name),
    }));
    source.close();
    const damaged = tensors.find(({ name }) => name === 'backbone.layers.1.mixer.D');
    damaged?.data.fill(Number.NaN, 3, 4);
    writeSafetensors(
      path,
      tensors.map((tensor) => ({ ...tensor, data: () => tensor.data })),
    );
    const model = open(folder);
    expect(() => streamedLogits(model, [1])).toThrow(UserError);
    expect(() => streamedLogits(model, [1])).toThrow(
      'tensor backbone.layers.1.mixer.D holds NaN at element 3; the checkpoint is damaged.',
    );
  });
});
