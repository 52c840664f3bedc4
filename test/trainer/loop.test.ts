// SPDX-License-Identifier: Apache-2.0
/** The loop: accumulation, clipping, dropout, coverage, numbers that are not finite, leaks. */
import * as tf from '@tensorflow/tfjs-core';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { getPeftModel, LoraConfig, type PeftModel } from '../../adapters/index.ts';
import type { Example } from '../../datasets/index.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { coverageMessage, createCoverage } from '../../trainer/coverage.ts';
import { bestBackend, onBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { liveMemory } from '../helpers/memory.ts';
import { goldenAdapter, goldenExamples, tinyRun, trainedValues } from './tiny_run.ts';

/** Rows of different lengths, some masked: every batch has another number of tokens. */
function unevenExamples(): Example[] {
  return goldenExamples('tied').map(({ inputIds }, i) => {
    const ids = inputIds.slice(0, 24 - 2 * i + (i % 3));
    const labels = ids.slice();
    labels.fill(-100, 0, i % 4);
    return { inputIds: ids, labels, promptLength: i % 4 };
  });
}

onBackend(bestBackend, () => {
  let adapter: PeftModel;
  let model: MambaForCausalLM;

  beforeEach(async () => {
    adapter = await goldenAdapter('tied', bestBackend);
    model = adapter.model;
  });
  afterEach(() => model.dispose());

  /** A model of its own for a second run. */
  const secondRun = async (options: Parameters<typeof tinyRun>[1]) => {
    const { model: other } = await goldenAdapter('tied', bestBackend);
    const run = await tinyRun(other, options);
    const values = trainedValues(other);
    other.dispose();
    return { ...run, values };
  };

  describe('gradient accumulation', () => {
    it('gives with k batches of 1 what 1 batch of k gives, weighted by tokens', async () => {
      const examples = unevenExamples();
      // A large eps makes the first steps of AdamW smooth in the gradient, whose last bits may differ.
      const options = { examples, eps: 1e-2 };
      const one = await tinyRun(model, { ...options, plan: { batchSize: 12, maxSteps: 3 } });
      for (const [batchSize, accumulationSteps] of [
        [1, 12],
        [5, 3],
      ]) {
        const many = await secondRun({ ...options, plan: { batchSize, accumulationSteps, maxSteps: 3 } });
        const lossOf = ({ reports }: typeof one) => reports.map((report) => report.loss);
        const normOf = ({ reports }: typeof one) => reports.map((report) => report.gradNorm);
        expectClose(lossOf(many), lossOf(one), { rtol: 1e-6, name: 'losses' });
        expectClose(normOf(many), normOf(one), { rtol: 1e-6, name: 'norms' });
        for (const [name, values] of trainedValues(model)) {
          expectClose(many.values.get(name) ?? [], values, { rtol: 1e-6, name });
        }
      }
    });
  });

  describe('clipping', () => {
    it('divides by the norm: any limit below it gives the same first step of AdamW but for eps', async () => {
      const examples = goldenExamples('tied');
      const before = trainedValues(model);
      const { reports } = await tinyRun(model, { examples, maxGradNorm: 0.1, eps: 1e-2, weightDecay: 0 });
      const clipped = trainedValues(model);
      const { reports: plain, values } = await secondRun({ examples, maxGradNorm: 0, eps: 1e-2, weightDecay: 0 });
      expect(reports[0]?.gradNorm).toBe(plain[0]?.gradNorm);
      const clip = 0.1 / ((plain[0]?.gradNorm ?? 0) + 1e-6);
      for (const [name, start] of before) {
        // The first step moves each value by lr g / (|g| + eps).
        const stepOf = (after: Float32Array | undefined) =>
          start.map((value, i) => (value - (after?.[i] ?? 0)) / 0.005);
        const gradients = stepOf(values.get(name)).map((step) => (1e-2 * step) / (1 - Math.abs(step)));
        const expected = gradients.map((g) => (clip * g) / (Math.abs(clip * g) + 1e-2));
        expectClose(stepOf(clipped.get(name)), expected, { rtol: 2e-3, name });
      }
    });
  });

  describe('dropout', () => {
    const withDropout = () => {
      for (const module of model.modules.values()) if (module.lora) module.lora.dropout = 0.5;
    };
    const losses = async (seed: number) => {
      const plan = { maxSteps: 2, epochs: 1 };
      const examples = goldenExamples('tied').slice(0, 3);
      const { reports } = await tinyRun(model, { examples, learningRate: 0, plan, loop: { seed } });
      return reports.map((report) => report.loss);
    };

    it('draws new masks at each step, the same for the same seed, and ends with the run', async () => {
      const [plain, again] = await losses(0);
      expect(again).toBe(plain);
      withDropout();
      const [first, second] = await losses(0);
      expect(first).not.toBe(plain);
      expect(second).not.toBe(first);
      expect(await losses(0)).toEqual([first, second]);
      expect((await losses(1))[0]).not.toBe(first);
      const [example] = goldenExamples('tied');
      const evaluated = () => {
        const { inputIds, labels } = example as Example;
        const { lossSum, count } = model.lossSum({ inputIds, labels, batch: 1, seqlen: 24 });
        const value = lossSum.dataSync()[0];
        tf.dispose([lossSum, count]);
        return value;
      };
      expect(evaluated()).toBe(evaluated());
    });
  });

  describe('gradient coverage', () => {
    it('sees every tensor of an adapter that is not zero in the first step', async () => {
      const coverage = createCoverage(model.trainableParameters());
      await tinyRun(model, { examples: goldenExamples('tied'), loop: { coverage } });
      expect(coverage.isComplete()).toBe(true);
      expect(coverage.rows()).toHaveLength(model.trainableParameters().size);
      for (const { name, shape, grad_norm, step } of coverage.rows()) {
        expect(shape).toEqual(model.trainableParameters().get(name)?.shape);
        expect(grad_norm, name).toBeGreaterThan(0);
        expect(step).toBe(1);
      }
    });

    it('sees the factor of an all-zero partner as soon as the partner has moved, past a warm-up from 0', async () => {
      const { folder } = model.source;
      const fresh = await MambaForCausalLM.fromPretrained(folder as string, { backend: bestBackend });
      getPeftModel(fresh, new LoraConfig({ r: 4 }));
      const coverage = createCoverage(fresh.trainableParameters());
      const schedule = (step: number) => (step === 0 ? 0 : 0.005);
      const plan = { maxSteps: 3 };
      await tinyRun(fresh, { examples: goldenExamples('tied'), plan, loop: { coverage, schedule } });
      fresh.dispose();
      expect(coverage.isComplete()).toBe(true);
      for (const { name, step } of coverage.rows()) {
        const first = /lora_B\.weight$|lora_embedding_A$/.test(name);
        expect(step, name).toBe(first ? 1 : 3);
      }
    });

    it('ends the run with the name of a tensor that the loss does not reach', async () => {
      const parameters = model.trainableParameters();
      const stray = tf.variable(tf.ones([2, 2]));
      const withStray = Object.assign(Object.create(model), {
        trainableParameters: () => new Map([...parameters, ['base_model.model.stray.lora_A.weight', stray]]),
      }) as MambaForCausalLM;
      const error = tinyRun(withStray, { examples: goldenExamples('tied') });
      await expect(error).rejects.toThrow(/step 1: a trainable tensor gets no gradient.*\n {2}.*stray\.lora_A\.weight/);
      stray.dispose();
    });

    it('waits long for batches with the tokens whose rows train, then names them', () => {
      const name = 'base_model.model.backbone.embeddings.token_adapter.trainable_tokens_delta';
      tf.tidy(() => {
        const rows = tf.variable(tf.ones([2, 3]));
        const [zero, some] = [tf.zeros([2, 3]), tf.ones([2, 3])];
        const late = createCoverage(new Map([[name, rows]]));
        for (let step = 1; step < 100; step++) late.observe(step, new Map([[name, zero]]));
        expect(coverageMessage(late.rows(), 99)).toMatch(/99 steps ran and no batch held one of their tokens/);
        late.observe(100, new Map([[name, some]]));
        expect(late.rows()).toMatchObject([{ name, step: 100 }]);
        const never = createCoverage(new Map([[name, rows]]));
        for (let step = 1; step < 100; step++) never.observe(step, new Map([[name, zero]]));
        expect(() => never.observe(100, new Map([[name, zero]]))).toThrow(
          /step 100: no batch so far held one of the tokens of adapter\.trainable_token_indices.*\n {2}.*trainable_tokens_delta/,
        );
        rows.dispose();
      });
    });

    it('ends the run with the name of a tensor whose gradient is zero', async () => {
      const [dead] = [...model.modules.values()].filter((module) => module.name.endsWith('1.mixer.x_proj'));
      const lora = dead?.lora;
      if (!lora) throw new Error('the golden adapter has an x_proj in layer 1');
      lora.scaling = 0;
      await expect(tinyRun(model, { examples: goldenExamples('tied') })).rejects.toThrow(
        /2 trainable tensors get no gradient.*\n.*layers\.1\.mixer\.x_proj\.lora_A.*\n.*layers\.1\.mixer\.x_proj\.lora_B/,
      );
    });
  });

  describe('numbers that are not finite', () => {
    const run = () => tinyRun(model, { examples: goldenExamples('tied'), plan: { maxSteps: 4 } });

    it('names a weight that holds NaN', async () => {
      const weight = model.trainableParameters().get('base_model.model.backbone.layers.1.mixer.in_proj.lora_B.weight');
      const values = weight?.dataSync().slice() as Float32Array;
      values[5] = Number.NaN;
      weight?.assign(tf.tensor(values, weight.shape));
      await expect(run()).rejects.toThrow(
        /The weight base_model\.model\.backbone\.layers\.1\.mixer\.in_proj\.lora_B\.weight holds NaN at element 5\./,
      );
    });

    it('names the first layer whose output overflows, and leaves the weights as they were', async () => {
      const weight = model.parameters.get('backbone.layers.1.mixer.D') as tf.Variable;
      weight.assign(tf.fill(weight.shape, 3e38));
      const before = trainedValues(model);
      await expect(run()).rejects.toThrow(/The first output that is not finite is that of backbone\.layers\.1\./);
      expect(trainedValues(model)).toEqual(before);
    });
  });

  it('ends after the step in which it is interrupted', async () => {
    let steps = 0;
    const loop = { onStep: async () => void steps++, shouldStop: () => steps === 2, afterStep: async () => {} };
    const { end } = await tinyRun(model, { examples: goldenExamples('tied'), plan: { maxSteps: 5 }, loop });
    expect(end.step).toBe(2);
  });

  it('leaves nothing behind: 50 steps, the same tensors and bytes after each from the third on', async () => {
    const examples = unevenExamples();
    await tinyRun(model, { examples });
    const before = liveMemory();
    const alive: ReturnType<typeof liveMemory>[] = [];
    const plan = { maxSteps: 50, accumulationSteps: 2 };
    await tinyRun(model, { examples, plan, loop: { onStep: async () => void alive.push(liveMemory()) } });
    expect(alive).toHaveLength(50);
    for (const memory of alive.slice(2)) expect(memory).toEqual(alive[2]);
    expect(liveMemory()).toEqual(before);
  });
});

onBackend('cpu', () => {
  it('leaves no tensor behind where the ops are composed', async () => {
    const { model } = await goldenAdapter('tied', 'cpu');
    const examples = goldenExamples('tied').slice(0, 3);
    await tinyRun(model, { examples });
    const before = liveMemory();
    await tinyRun(model, { examples, plan: { maxSteps: 3 } });
    expect(liveMemory()).toEqual(before);
    model.dispose();
  });
});
