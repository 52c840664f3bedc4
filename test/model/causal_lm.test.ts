// SPDX-License-Identifier: Apache-2.0
/** What must hold of any model: carried state, chunks, padding, packing, embeddings as input, losses, saving, bad input, leaks. */
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Tensor3D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { getPeftModel, LoraConfig } from '../../adapters/index.ts';
import { valueAndGradients } from '../../src/autograd/index.ts';
import { openSafetensors } from '../../src/checkpoint/safetensors.ts';
import { writeSafetensors } from '../../src/checkpoint/safetensors_writer.ts';
import { UserError } from '../../src/errors.ts';
import type { ForwardInputs, LossBatch } from '../../src/model/causal_lm.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { MambaConfig } from '../../src/model/config.ts';
import { GOLDEN_FOLDER } from '../golden/golden.ts';
import { forEachBackend, onBackend, testedBackends } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { expectNoLeak, liveMemory } from '../helpers/memory.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

const CONFIG = new MambaConfig({ vocabSize: 61, hiddenSize: 24, numHiddenLayers: 3, stateSize: 8, timeStepRank: 3 });
/** float32 summed in another order. */
const CLOSE = { rtol: 1e-5 };

const ROWS = [
  [3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 9, 32],
  [2, 7, 18, 28, 18, 28, 45, 9, 0, 4, 52, 35],
];

function logitsOf(model: MambaForCausalLM, inputs: ForwardInputs): Float32Array {
  const { logits } = model.forward(inputs);
  const values = logits.dataSync<'float32'>();
  logits.dispose();
  return values.slice();
}

/** A model whose every tensor is away from its neutral value, with an adapter that trains. */
function adaptedModel(): MambaForCausalLM {
  const model = MambaForCausalLM.fromConfig(CONFIG, { seed: 1 });
  getPeftModel(
    model,
    new LoraConfig({
      r: 3,
      initLoraWeights: false,
      targetModules: ['embeddings', 'in_proj', 'x_proj', 'dt_proj', 'out_proj'],
    }),
  );
  return model;
}

function batchOf(rows: number[][], extra: Partial<LossBatch> = {}): LossBatch {
  const inputIds = Int32Array.from(rows.flat());
  return { inputIds, labels: inputIds.slice(), batch: rows.length, seqlen: rows[0]?.length ?? 0, ...extra };
}

type LossAndGradients = { loss: number; count: number; gradients: Float32Array[] };

function lossAndGradients(model: MambaForCausalLM, batch: LossBatch): LossAndGradients {
  return tf.tidy(() => {
    let count = 0;
    const forward = () => {
      const result = model.lossSum(batch);
      count = result.count.dataSync()[0] as number;
      return result.lossSum;
    };
    const { value, gradients } = valueAndGradients(forward, [...model.trainableParameters().values()]);
    return {
      loss: value.dataSync()[0] as number,
      count,
      gradients: gradients.map((gradient) => gradient?.dataSync() as Float32Array),
    };
  }) as unknown as LossAndGradients;
}

forEachBackend(() => {
  let model: MambaForCausalLM;
  beforeAll(() => {
    model = adaptedModel();
  });
  afterAll(() => model.dispose());

  it('inputsEmbeds in place of inputIds', () => {
    const ids = tf.tensor2d(ROWS, undefined, 'int32');
    const module = model.modules.get('backbone.embeddings');
    if (!module?.lora) throw new Error('the embeddings have no adapter');
    const { A, B, scaling } = module.lora;
    const table = tf.tidy(() => tf.add(module.weight, tf.mul(scaling, tf.matMul(A, B, true, true))));
    const inputsEmbeds = tf.tidy(() => tf.reshape(tf.gather(table, tf.reshape(ids, [-1])), [2, 12, 24]) as Tensor3D);
    expectClose(logitsOf(model, { inputsEmbeds }), logitsOf(model, { inputIds: ids }), CLOSE);
    expect(logitsOf(model, { inputIds: ids })).toEqual(logitsOf(model, { inputIds: ROWS }));
    expect(inputsEmbeds.isDisposed).toBe(false);
    tf.dispose([ids, table, inputsEmbeds]);
  });

  it.each([[[11, 1]], [[1, 11]], [[2, 3, 7]], [Array.from({ length: 12 }, () => 1)]])(
    'carried state: pieces of %j give the whole',
    (pieces) => {
      const before = liveMemory();
      const whole = model.forward({ inputIds: ROWS, useCache: true });
      const parts: Tensor3D[] = [];
      let cacheParams: ForwardInputs['cacheParams'];
      let start = 0;
      for (const length of pieces) {
        const inputIds = ROWS.map((row) => row.slice(start, start + length));
        const result = model.forward({ inputIds, useCache: true, ...(cacheParams && { cacheParams }) });
        cacheParams?.dispose();
        ({ cacheParams } = result);
        parts.push(result.logits);
        start += length;
      }
      const joined = tf.concat(parts, 1);
      expectClose(joined.dataSync(), whole.logits.dataSync(), { ...CLOSE, name: 'logits' });
      for (const [i, state] of (whole.cacheParams?.ssmStates ?? []).entries()) {
        expectClose(cacheParams?.ssmStates[i]?.dataSync() ?? [], state.dataSync(), {
          ...CLOSE,
          name: `ssm state ${i}`,
        });
      }
      for (const [i, state] of (whole.cacheParams?.convStates ?? []).entries()) {
        expectClose(cacheParams?.convStates[i]?.dataSync() ?? [], state.dataSync(), {
          ...CLOSE,
          name: `conv state ${i}`,
        });
      }
      expect(whole.cacheParams?.ssmStates).toHaveLength(3);
      tf.dispose([joined, whole.logits, ...parts]);
      cacheParams?.dispose();
      whole.cacheParams?.dispose();
      expect(liveMemory()).toEqual(before);
    },
  );

  it('padding on either side leaves the other positions as they are', () => {
    const alone = logitsOf(model, { inputIds: [(ROWS[0] as number[]).slice(0, 8)] });
    const pad = [60, 60, 60, 60];
    const inputIds = [
      [...(ROWS[0] as number[]).slice(0, 8), ...pad],
      [...pad, ...(ROWS[0] as number[]).slice(0, 8)],
    ];
    const attentionMask = [
      [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0],
      [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1],
    ];
    const padded = logitsOf(model, { inputIds, attentionMask });
    const row = (positions: number, from: number) => padded.subarray(from * 61, (from + positions) * 61);
    expectClose(row(8, 0), alone, { ...CLOSE, name: 'padded on the right' });
    expectClose(row(8, 12 + 4), alone, { ...CLOSE, name: 'padded on the left' });
  });

  it('lossSum is the sum over shifted labels, and forward gives its mean', () => {
    const labels = ROWS.map((row) => row.map((id, t) => (t % 5 === 3 ? -100 : id)));
    const expected = logSoftmaxLoss(logitsOf(model, { inputIds: ROWS }), labels, 61);
    const summed = lossAndGradients(model, batchOf(ROWS, { labels: Int32Array.from(labels.flat()) }));
    expect(summed.count).toBe(expected.count);
    expectClose([summed.loss], [expected.sum], { rtol: 1e-6 });
    const { logits, loss } = model.forward({ inputIds: ROWS, labels });
    expectClose(loss?.dataSync() ?? [], [expected.sum / expected.count], { rtol: 1e-6 });
    tf.dispose([logits, loss as tf.Scalar]);
  });

  it.each([false, true])(
    'packed documents are separate ones, in the loss and in every gradient (gradient_checkpointing %s)',
    (checkpointing) => {
      model.gradientCheckpointing = checkpointing;
      const documents = [ROWS[0]?.slice(0, 5), ROWS[1]?.slice(0, 1), ROWS[1]?.slice(1, 7)] as number[][];
      const packed = documents.flat();
      const labels = Int32Array.from(documents.flatMap((document) => [-100, ...document.slice(1)]));
      const seqIdx = Int32Array.from(documents.flatMap((document, i) => document.map(() => i)));
      const together = lossAndGradients(model, batchOf([packed], { labels, seqIdx }));
      const apart = documents
        .filter((document) => document.length > 1)
        .map((document) => lossAndGradients(model, batchOf([document])));
      const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);
      expect(together.count).toBe(sum(apart.map(({ count }) => count)));
      expectClose([together.loss], [sum(apart.map(({ loss }) => loss))], { rtol: 2e-6 });
      for (const [i, gradient] of together.gradients.entries()) {
        const expected = gradient.map((_, j) => sum(apart.map(({ gradients }) => gradients[i]?.[j] as number)));
        expectClose(gradient, expected, { rtol: 2e-5, name: [...model.trainableParameters().keys()][i] as string });
      }
      const leaking = lossAndGradients(model, batchOf([packed], { labels }));
      expect(Math.abs(leaking.loss - together.loss), 'without seqIdx the documents see each other').toBeGreaterThan(
        1e-3,
      );
      model.gradientCheckpointing = false;
    },
  );

  it('an attention mask in lossSum is that of forward', () => {
    const attentionMask = ROWS.map((_, row) => Array.from({ length: 12 }, (__, t) => (t < 3 * row ? 0 : 1)));
    const labels = ROWS.map((row, i) => row.map((id, t) => (t <= 3 * i ? -100 : id)));
    const { loss, count } = lossAndGradients(
      model,
      batchOf(ROWS, { labels: Int32Array.from(labels.flat()), attentionMask: Int32Array.from(attentionMask.flat()) }),
    );
    const expected = logSoftmaxLoss(logitsOf(model, { inputIds: ROWS, attentionMask }), labels, 61);
    expect(count).toBe(expected.count);
    expectClose([loss], [expected.sum], { rtol: 1e-6 });
  });

  it.each([false, true])('a step leaves no tensor and no byte behind (gradient_checkpointing %s)', (checkpointing) => {
    model.gradientCheckpointing = checkpointing;
    lossAndGradients(model, batchOf(ROWS));
    expectNoLeak(() => lossAndGradients(model, batchOf(ROWS)));
    expectNoLeak(() => logitsOf(model, { inputIds: ROWS }));
    model.gradientCheckpointing = false;
  });

  it('a failed step leaves no tensor and no byte behind', () => {
    expectNoLeak(() => {
      const labels = Int32Array.from({ length: 3 }, () => 1);
      expect(() => lossAndGradients(model, batchOf(ROWS, { labels }))).toThrow();
    });
  });

  it('every parameter and adapter tensor is freed with its model', () => {
    expectNoLeak(() => {
      const short = adaptedModel();
      logitsOf(short, { inputIds: ROWS });
      short.dispose();
    });
  });
});

onBackend(testedBackends()[0] ?? 'cpu', () => {
  describe('saving', () => {
    it.each([
      [false, true, false],
      [true, false, true],
    ])(
      'save and reload give equal logits (tied %s, conv bias %s, projection bias %s)',
      async (tieWordEmbeddings, useConvBias, useBias) => {
        const saved = MambaForCausalLM.fromConfig(CONFIG.with({ tieWordEmbeddings, useConvBias, useBias }), {
          seed: 3,
        });
        const folder = join(temporaryFolder(), 'model');
        await saved.savePretrained(folder);
        const loaded = await MambaForCausalLM.fromPretrained(folder, { backend: testedBackends()[0] ?? 'cpu' });
        expect(logitsOf(loaded, { inputIds: ROWS })).toEqual(logitsOf(saved, { inputIds: ROWS }));
        expect(loaded.config.toJSON()).toMatchObject({ ...saved.config.toJSON(), architectures: ['MambaForCausalLM'] });
        expect([...loaded.parameters.keys()]).toEqual([...saved.parameters.keys()]);
        expect(loaded.parameters.has('lm_head.weight')).toBe(!tieWordEmbeddings);
        expect(loaded.source).toEqual({
          folder,
          name: folder,
          revision: null,
          fingerprint: expect.stringMatching(/^[0-9a-f]{64}$/),
        });
        saved.dispose();
        loaded.dispose();
      },
    );

    it('writes the numbers that transformers declares as float with a decimal point', async () => {
      const saved = MambaForCausalLM.fromConfig(CONFIG.with({ initializerRange: 2 }));
      const folder = join(temporaryFolder(), 'model');
      await saved.savePretrained(folder);
      saved.dispose();
      const text = readFileSync(join(folder, 'config.json'), 'utf8');
      for (const line of [
        '"time_step_scale": 1.0,',
        '"initializer_range": 2.0,',
        '"time_step_max": 0.1,',
        '"expand": 2,',
      ]) {
        expect(text).toContain(`  ${line}\n`);
      }
    });

    it('rounds to bf16 when asked', async () => {
      const saved = MambaForCausalLM.fromConfig(CONFIG, { seed: 3 });
      const folder = join(temporaryFolder(), 'model');
      await saved.savePretrained(folder, { dtype: 'BF16' });
      const loaded = await MambaForCausalLM.fromPretrained(folder, { backend: testedBackends()[0] ?? 'cpu' });
      for (const [name, parameter] of loaded.parameters) {
        const own = saved.parameters.get(name)?.dataSync() as Float32Array;
        expectClose(parameter.dataSync(), own, { rtol: 2 ** -8, name });
        const bits = new Uint32Array(parameter.dataSync<'float32'>().slice().buffer);
        expect(bits.every((word) => word << 16 === 0)).toBe(true);
      }
      saved.dispose();
      loaded.dispose();
    });
  });

  describe('bad input', () => {
    let model: MambaForCausalLM;
    beforeAll(() => {
      model = MambaForCausalLM.fromConfig(CONFIG);
      logitsOf(model, { inputIds: [[0]] });
    });
    afterAll(() => model.dispose());

    const rows = [[1, 2, 3]];
    it.each<[string, ForwardInputs, string]>([
      ['an id outside the vocabulary', { inputIds: [[1, 2, 61]] }, 'inputIds: 61 at position 2 lies outside 0..60.'],
      ['a negative id', { inputIds: [[-1, 2, 3]] }, 'inputIds: -1 at position 0 lies outside 0..60.'],
      [
        'uneven rows',
        {
          inputIds: [
            [1, 2, 3],
            [1, 2],
          ],
        },
        'inputIds: row 1 has 2 positions, row 0 has 3; pad the rows to one length.',
      ],
      ['no input', {}, 'forward: found neither inputIds nor inputsEmbeds; expected one of them.'],
      ['no position', { inputIds: [[]] }, 'inputIds: found no positions; expected at least one.'],
      ['no row', { inputIds: [] }, 'inputIds: found no rows; expected at least one.'],
      [
        'a mask of another shape',
        { inputIds: rows, attentionMask: [[1, 1]] },
        'attentionMask: found [1, 2], expected [1, 3] as the input has.',
      ],
      [
        'a mask that is none',
        { inputIds: rows, attentionMask: [[1, 2, 1]] },
        'attentionMask: 2 at position 1 lies outside 0..1.',
      ],
      [
        'labels of another shape',
        { inputIds: rows, labels: [[1, 2, 3, 4]] },
        'labels: found [1, 4], expected [1, 3] as the input has.',
      ],
      [
        'a label outside the vocabulary',
        { inputIds: rows, labels: [[1, 2, 99]] },
        'labels: 99 at position 2 lies outside 0..60; -100 is ignored.',
      ],
      [
        'a label that is neither id nor -100',
        { inputIds: rows, labels: [[1, 2, -1]] },
        'labels: -1 at position 2 lies outside 0..60; -100 is ignored.',
      ],
    ])('%s', (_, inputs, message) => {
      expectNoLeak(() => expect(() => model.forward(inputs)).toThrow(new UserError(message)));
    });

    it('two inputs', () => {
      const inputsEmbeds: Tensor3D = tf.zeros([1, 3, 24]);
      const message = 'forward: found inputIds and inputsEmbeds; expected one of them.';
      expect(() => model.forward({ inputIds: rows, inputsEmbeds })).toThrow(new UserError(message));
      inputsEmbeds.dispose();
    });

    it('an id outside the vocabulary in a training batch', () => {
      expect(() => model.lossSum(batchOf([[1, 2, 77]]))).toThrow(
        new UserError('inputIds: 77 at position 2 lies outside 0..60.'),
      );
    });

    it('a NaN weight is named, with its file and element', async () => {
      const folder = temporaryFolder();
      cpSync(join(GOLDEN_FOLDER, 'tied', 'model'), folder, { recursive: true });
      const path = join(folder, 'model.safetensors');
      const source = openSafetensors(path);
      const tensors = Array.from(source.entries.values(), ({ name, shape }) => ({
        name,
        shape,
        data: source.readFloat32(name),
      }));
      source.close();
      const damaged = tensors.find(({ name }) => name === 'backbone.layers.1.mixer.A_log');
      if (damaged) damaged.data[7] = Number.NaN;
      writeSafetensors(
        path,
        tensors.map(({ data, ...rest }) => ({ ...rest, dtype: 'F32' as const, data: () => data })),
      );
      const before = tf.memory().numTensors;
      await expect(MambaForCausalLM.fromPretrained(folder)).rejects.toThrow(
        new UserError(
          `${path}: tensor backbone.layers.1.mixer.A_log holds NaN at element 7; the checkpoint is damaged.`,
        ),
      );
      expect(tf.memory().numTensors).toBe(before);
    });

    it('a folder without a config', async () => {
      const folder = temporaryFolder();
      writeFileSync(join(folder, 'notes.txt'), '');
      await expect(MambaForCausalLM.fromPretrained(folder)).rejects.toThrow(/config\.json/);
    });
  });
});

/** Shifted cross-entropy from logits, in float64. */
function logSoftmaxLoss(logits: Float32Array, labels: number[][], vocabSize: number): { sum: number; count: number } {
  const seqlen = labels[0]?.length ?? 0;
  const result = { sum: 0, count: 0 };
  for (const [row, rowLabels] of labels.entries()) {
    for (let t = 0; t + 1 < seqlen; t++) {
      const label = rowLabels[t + 1] as number;
      if (label === -100) continue;
      const from = (row * seqlen + t) * vocabSize;
      const scores = logits.subarray(from, from + vocabSize);
      const largest = Math.max(...scores);
      const total = scores.reduce((sum, score) => sum + Math.exp(score - largest), 0);
      result.sum += largest + Math.log(total) - (scores[label] as number);
      result.count++;
    }
  }
  return result;
}
