// SPDX-License-Identifier: Apache-2.0
/** The fused step: what the ops give one by one, with adapters and without, in float32 and bfloat16; memory; wrong calls. */
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, onTestFinished, test } from 'vitest';
import { getPeftModel, LoraConfig } from '../../adapters/index.ts';
import { DeviceBackend } from '../../src/backends/device_backend.ts';
import { createMambaStep, type StepModel } from '../../src/backends/mamba_step.ts';
import { float32ToBfloat16 } from '../../src/checkpoint/dtypes.ts';
import { createDecoder } from '../../src/generation/decoder.ts';
import { stepModelOf } from '../../src/generation/step_model.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { MambaConfig, type MambaConfigFields } from '../../src/model/config.ts';
import { createRandom } from '../../src/random.ts';
import { testedBackends } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';

const ALL = ['embeddings', 'in_proj', 'x_proj', 'dt_proj', 'out_proj'];
const random = createRandom({ seed: 5 });

function backend(): DeviceBackend {
  const current = tf.backend();
  if (current instanceof DeviceBackend) return current;
  throw new Error('the native backend is not current');
}

/** A small model; `fields` change its config. */
function small(fields: Partial<MambaConfigFields> = {}, dtype: 'float32' | 'bfloat16' = 'float32'): MambaForCausalLM {
  const config = { vocabSize: 61, hiddenSize: 24, numHiddenLayers: 3, stateSize: 5, timeStepRank: 3, ...fields };
  const model = MambaForCausalLM.fromConfig(new MambaConfig(config), { seed: 2, dtype });
  onTestFinished(() => model.dispose());
  return model;
}

/** Runs tokens by steps, and checks each step's logits against one forward over all of the text. */
async function compareWithForward(model: MambaForCausalLM, batch: number, count = 4): Promise<void> {
  const { vocabSize } = model.config;
  const rows = Array.from({ length: batch }, () => Array.from({ length: 3 + count }, () => random.below(vocabSize)));
  const { logits: all } = model.forward({ inputIds: rows });
  const expected = (await all.array()) as number[][][];
  all.dispose();
  const decoder = createDecoder(model);
  await decoder.prefill(rows.map((row) => row.slice(0, 3)));
  for (let t = 3; t < 3 + count; t++) {
    const logits = await decoder.step(rows.map((row) => row[t] as number));
    expectClose(
      logits,
      expected.flatMap((row) => row[t] as number[]),
      { rtol: 2e-5, name: `logits of step ${t}` },
    );
  }
  decoder.dispose();
}

describe.runIf(testedBackends().includes('native'))('fused step', async () => {
  await MambaForCausalLM.fromPretrained(join('test', 'golden', 'tied', 'model'), { backend: 'native' }).then((model) =>
    model.dispose(),
  );

  test.each<[string, Partial<MambaConfigFields>]>([
    ['', {}],
    ['one layer', { numHiddenLayers: 1 }],
    ['an even number of layers', { numHiddenLayers: 2 }],
    ['d_conv 2', { convKernel: 2 }],
    ['bias on the projections', { useBias: true }],
    ['no bias on the convolution', { useConvBias: false }],
    ['16 states', { stateSize: 16 }],
    ['a head of its own', { tieWordEmbeddings: false }],
  ])('gives what a forward gives %s', async (_, fields) => {
    const model = small(fields);
    expect(stepModelOf(model, (tensor) => tensor.dispose())).toBeDefined();
    await compareWithForward(model, 1);
    await compareWithForward(model, 3);
  });

  test('for batches beyond the rows of one product', () => compareWithForward(small(), 19));

  test('with adapters on every module', async () => {
    const model = small();
    getPeftModel(model, new LoraConfig({ r: 3, loraAlpha: 7, targetModules: ALL, initLoraWeights: false }));
    await compareWithForward(model, 2);
    await compareWithForward(model, 9);
  });

  test('with an adapter on the convolution', async () => {
    const model = small({ useBias: true });
    getPeftModel(
      model,
      new LoraConfig({ r: 2, targetModules: ['in_proj', 'dt_proj', 'out_proj', 'conv1d'], initLoraWeights: false }),
    );
    expect(stepModelOf(model, (tensor) => tensor.dispose())).toBeDefined();
    await compareWithForward(model, 2);
  });

  test('DoRA goes op by op', async () => {
    const model = small();
    getPeftModel(model, new LoraConfig({ r: 2, useDora: true, targetModules: ['in_proj'], initLoraWeights: false }));
    expect(stepModelOf(model, (tensor) => tensor.dispose())).toBeUndefined();
    await compareWithForward(model, 2);
  });

  test('a real model', async () => {
    const model = await MambaForCausalLM.fromPretrained('models/mamba-5m', { backend: 'native' });
    onTestFinished(() => model.dispose());
    await compareWithForward(model, 2, 12);
  });

  describe('bfloat16', () => {
    const MATRIX_VALUES = 61 * 24 + 3 * (96 * 24 + 13 * 48 + 48 * 3 + 24 * 48);

    test('matrices are rounded, the rest is as it was', () => {
      const [exact, rounded] = [small(), small({}, 'bfloat16')];
      expect([exact.dtype, rounded.dtype]).toEqual(['float32', 'bfloat16']);
      for (const [name, variable] of exact.parameters) {
        const values = variable.dataSync<'float32'>().slice();
        if (/(embeddings|_proj)\.weight$/.test(name)) {
          for (const [i, half] of float32ToBfloat16(values).entries()) new Uint32Array(values.buffer)[i] = half << 16;
        }
        expect(rounded.parameters.get(name)?.dataSync()).toEqual(values);
      }
    });

    test('steps read copies of half the size, which go with the weights, and give the same bits', async () => {
      const before = backend().memoryStats().weightCacheBytes;
      const model = small({}, 'bfloat16');
      const exact = small({}, 'bfloat16');
      const decoders = [createDecoder(model), createDecoder(exact)] as const;
      for (const decoder of decoders) await decoder.prefill([[1, 2, 3]]);
      const step = stepModelOf(model, (tensor) => onTestFinished(() => tensor.dispose())) as StepModel;
      const state = decoders[1].copyState();
      const float32 = createMambaStep({ ...step, isBfloat16: false }, state);
      const wanted = float32.run(Int32Array.of(7)).slice();
      expect(backend().memoryStats().weightCacheBytes).toBe(before);
      expect(await decoders[0].step([7])).toEqual(wanted);
      expect(backend().memoryStats().weightCacheBytes - before).toBe(2 * MATRIX_VALUES);
      float32.dispose();
      state.dispose();
      for (const decoder of decoders) decoder.dispose();
      model.parameters.forEach((variable) => void variable.assign(tf.zerosLike(variable)));
      expect(backend().memoryStats().weightCacheBytes).toBe(before);
    });

    test('a weight that is no longer bfloat16 is read as it is', async () => {
      const model = small({}, 'bfloat16');
      const weight = model.parameters.get('backbone.layers.1.mixer.out_proj.weight') as tf.Variable;
      tf.tidy(() => weight.assign(tf.mul(weight, 1.001)));
      await compareWithForward(model, 2);
    });

    test('with batches and adapters', async () => {
      const model = small({}, 'bfloat16');
      getPeftModel(model, new LoraConfig({ r: 2, targetModules: ALL, initLoraWeights: false }));
      await compareWithForward(model, 9);
    });

    test('of a checkpoint', async () => {
      const model = await MambaForCausalLM.fromPretrained('models/mamba-5m', { backend: 'native', dtype: 'bfloat16' });
      onTestFinished(() => model.dispose());
      await compareWithForward(model, 1, 5);
    });
  });

  test('a model with something that the step does not know goes op by op', () => {
    const model = small();
    const [layer] = model.backbone.layers.layers;
    const known = () => stepModelOf(model, (tensor) => tensor.dispose()) !== undefined;
    expect(known()).toBe(true);
    Object.assign(layer as object, { unheardOf: null });
    expect(known()).toBe(true);
    Object.assign(layer as object, { unheardOf: 3 });
    expect(known()).toBe(false);
  });

  test('nothing leaks, and working memory goes with the decoder', async () => {
    const model = small();
    const decoder = createDecoder(model);
    await decoder.prefill([[1], [2]]);
    await decoder.step([3, 4]);
    decoder.dispose();
    const before = { tensors: tf.memory().numTensors, buffers: backend().memoryStats().liveBuffers };
    for (let i = 0; i < 3; i++) {
      const again = createDecoder(model);
      await again.prefill([[1], [2]]);
      for (let t = 0; t < 4; t++) await again.step([3, 4]);
      again.selectRows([1]);
      await again.step([5]);
      again.dispose();
    }
    expect({ tensors: tf.memory().numTensors, buffers: backend().memoryStats().liveBuffers }).toEqual(before);
  });

  test('a state of the wrong size is refused, not read beyond', async () => {
    const model = small();
    const step = stepModelOf(model, (tensor) => onTestFinished(() => tensor.dispose())) as StepModel;
    const zeros = (shape: number[]) => step.layers.map(() => tf.zeros(shape));
    const state = { convStates: zeros([2, 3, 48]), ssmStates: zeros([2, 48, 4]) };
    const bad = createMambaStep(step, state);
    expect(() => bad.run(Int32Array.of(1, 2))).toThrow(/buffer that is too small/);
    bad.dispose();
    tf.dispose([state.convStates, state.ssmStates]);
  });
});
