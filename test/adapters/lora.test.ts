// SPDX-License-Identifier: Apache-2.0
/** Attaching adapters: targets, counts, initial values, dropout, gradients; the peft folder, out and in. */
import { cpSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { getPeftModel, LoraConfig, PeftModel, targetedModules } from '../../adapters/index.ts';
import { selectBackend } from '../../src/backends/select.ts';
import { openSafetensors } from '../../src/checkpoint/safetensors.ts';
import { writeSafetensors } from '../../src/checkpoint/safetensors_writer.ts';
import { ConfigError, UserError } from '../../src/errors.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { MambaConfig } from '../../src/model/config.ts';
import { GOLDEN_FOLDER } from '../golden/golden.ts';
import { forEachBackend, testedBackends } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { ALL, adapted, CONFIG, expectSlopes, gradientsOf, LIVELY, logitsOf, lossOf, newModel } from './tiny_adapter.ts';

beforeAll(async () => {
  await selectBackend(testedBackends()[0] ?? 'cpu');
});

describe('targets', () => {
  const names = (targetModules: string | string[]) =>
    targetedModules(newModel(), new LoraConfig({ targetModules })).map(({ name }) => name);

  it('are names, longer names, or one expression for whole names, in the order of the model', () => {
    expect(names(['out_proj', 'embeddings'])).toEqual([
      'backbone.embeddings',
      'backbone.layers.0.mixer.out_proj',
      'backbone.layers.1.mixer.out_proj',
    ]);
    expect(names(['1.mixer.x_proj'])).toEqual(['backbone.layers.1.mixer.x_proj']);
    expect(names(['backbone.layers.0.mixer.dt_proj'])).toEqual(['backbone.layers.0.mixer.dt_proj']);
    expect(names('backbone\\.layers\\.1\\.mixer\\.(in|dt)_proj')).toEqual([
      'backbone.layers.1.mixer.in_proj',
      'backbone.layers.1.mixer.dt_proj',
    ]);
    expect(names('.*embeddings|.*0.*x_proj')).toEqual(['backbone.embeddings', 'backbone.layers.0.mixer.x_proj']);
  });

  it('a name must be a whole part of the module name', () => {
    expect(() => names(['proj'])).toThrow(ConfigError);
  });

  it('that match nothing are listed, with what exists', () => {
    expect(() => names(['in_proj', 'q_proj', 'v_proj'])).toThrow(
      new ConfigError(
        'target_modules: q_proj, v_proj matches no module; the modules are embeddings, in_proj, conv1d, x_proj, dt_proj, out_proj.',
      ),
    );
    expect(() => names('in_proj')).toThrow(
      new ConfigError(
        'target_modules: the expression in_proj matches no module; the modules are embeddings, in_proj, conv1d, x_proj, dt_proj, out_proj (such as backbone.layers.0.mixer.in_proj).',
      ),
    );
  });
});

describe('counts', () => {
  it('mamba-5m with the seed recipe trains 201,728 parameters', async () => {
    const model = await MambaForCausalLM.fromPretrained('models/mamba-5m', { backend: testedBackends()[0] ?? 'cpu' });
    onTestFinished(() => model.dispose());
    const { trainable, all, percent } = getPeftModel(model, new LoraConfig({ r: 8 })).counts();
    expect({ trainable, all }).toEqual({ trainable: 201_728, all: 4_754_688 });
    expect(percent).toBeCloseTo(4.2427, 4);
  });

  it('base parameters do not train; a second adapter is refused', () => {
    const peft = adapted({ targetModules: ['in_proj'] });
    expect([...peft.model.trainableParameters().keys()]).toEqual(
      ['0', '1'].flatMap((i) =>
        ['A', 'B'].map((factor) => `base_model.model.backbone.layers.${i}.mixer.in_proj.lora_${factor}.weight`),
      ),
    );
    expect(() => getPeftModel(peft.model, new LoraConfig())).toThrow(
      new ConfigError('the model has an adapter already; load the base model again to attach another.'),
    );
  });
});

describe('initial values', () => {
  const wide = new MambaConfig({ vocabSize: 300, hiddenSize: 128, numHiddenLayers: 1 });
  const valuesOf = (peft: PeftModel, suffix: string): number[] => {
    const found = [...peft.tensors()].find(([name]) => name.endsWith(suffix));
    if (!found) throw new Error(`no ${suffix}`);
    return [...found[1].dataSync()];
  };
  const deviation = (values: number[]) =>
    Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);

  it('true: A uniform by fan-in, B zero; embeddings: A zero, B normal; the start is the base model', () => {
    const peft = adapted({ r: 16, targetModules: ALL }, wide);
    const A = valuesOf(peft, 'in_proj.lora_A.weight');
    const bound = 1 / Math.sqrt(128);
    expect(Math.max(...A.map(Math.abs))).toBeLessThanOrEqual(bound);
    expect(Math.max(...A.map(Math.abs))).toBeGreaterThan(0.99 * bound);
    expect(deviation(A)).toBeCloseTo(bound / Math.sqrt(3), 2);
    expect(new Set(valuesOf(peft, 'in_proj.lora_B.weight'))).toEqual(new Set([0]));
    expect(new Set(valuesOf(peft, 'lora_embedding_A'))).toEqual(new Set([0]));
    const B = valuesOf(peft, 'lora_embedding_B');
    expect(deviation(B)).toBeGreaterThan(0.93);
    expect(deviation(B)).toBeLessThan(1.07);
    expect(Math.max(...B.map(Math.abs))).toBeGreaterThan(2);
    const base = newModel(wide);
    expect(logitsOf(peft.model)).toEqual(logitsOf(base));
  });

  it("'gaussian': A normal of deviation 1/r, B zero", () => {
    const peft = adapted({ r: 16, targetModules: ['in_proj', 'embeddings'], initLoraWeights: 'gaussian' }, wide);
    const A = valuesOf(peft, 'in_proj.lora_A.weight');
    expect(deviation(A)).toBeGreaterThan(0.94 / 16);
    expect(deviation(A)).toBeLessThan(1.06 / 16);
    expect(Math.max(...A.map(Math.abs))).toBeGreaterThan(2.5 / 16);
    expect(new Set(valuesOf(peft, 'in_proj.lora_B.weight'))).toEqual(new Set([0]));
    expect(new Set(valuesOf(peft, 'lora_embedding_A'))).toEqual(new Set([0]));
  });

  it('false: no factor is zero', () => {
    const peft = adapted({ targetModules: ALL, initLoraWeights: false });
    for (const [name, tensor] of peft.tensors()) expect(deviation([...tensor.dataSync()]), name).toBeGreaterThan(0.01);
  });

  it('a seed decides them', () => {
    const tensors = (seed: number) =>
      Array.from(adapted({ targetModules: ALL, initLoraWeights: false }, CONFIG, seed).tensors().values(), (tensor) => [
        ...tensor.dataSync(),
      ]);
    expect(tensors(5)).toEqual(tensors(5));
    const [one, other] = [tensors(5), tensors(6)];
    for (const [i, values] of one.entries()) expect(values).not.toEqual(other[i]);
    expect(one[2], 'two modules of one adapter differ').not.toEqual(one[10]);
  });
});

describe('peft folders', () => {
  it('written files have the bytes of the tensors read, and only the three files', async () => {
    const model = await MambaForCausalLM.fromPretrained('models/mamba-5m', { backend: testedBackends()[0] ?? 'cpu' });
    onTestFinished(() => model.dispose());
    const source = join(GOLDEN_FOLDER, 'seed-recipe', 'adapter_init');
    const folder = join(temporaryFolder(), 'adapter');
    await PeftModel.fromPretrained(model, source).savePretrained(folder);
    expect(readdirSync(folder).sort()).toEqual(['README.md', 'adapter_config.json', 'adapter_model.safetensors']);
    const [written, golden] = [folder, source].map((path) => openSafetensors(join(path, 'adapter_model.safetensors')));
    if (!written || !golden) throw new Error('unreachable');
    expect([...written.entries.keys()].sort()).toEqual([...golden.entries.keys()].sort());
    for (const [name, entry] of golden.entries) {
      const { dtype, shape, byteLength } = entry;
      expect(written.entries.get(name)).toMatchObject({ name, dtype, shape, byteLength });
      expect(
        Buffer.compare(Buffer.from(written.readFloat32(name).buffer), Buffer.from(golden.readFloat32(name).buffer)),
        name,
      ).toBe(0);
    }
    expect(written.metadata).toEqual({ format: 'pt', base_model_fingerprint: model.source.fingerprint });
    written.close();
    golden.close();
    const config = JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8')) as Record<string, unknown>;
    expect(config).toMatchObject({
      base_model_name_or_path: 'mamba-5m',
      r: 8,
      target_modules: ['embeddings', 'x_proj', 'out_proj', 'in_proj'],
    });
  });

  it.each([{}, { useRslora: true, loraAlpha: 3 }, { useDora: true, r: 3 }, { targetModules: '.*(dt|in)_proj' }])(
    'save and load of %j give equal logits',
    async (fields) => {
      const peft = adapted({ targetModules: ALL, initLoraWeights: false, ...fields });
      const folder = join(temporaryFolder(), 'adapter');
      await peft.savePretrained(folder);
      const again = newModel();
      const loaded = PeftModel.fromPretrained(again, folder);
      expect(logitsOf(again)).toEqual(logitsOf(peft.model));
      expect(loaded.counts().trainable).toBe(0);
      const trainable = newModel();
      expect(PeftModel.fromPretrained(trainable, folder, { trainable: true }).counts()).toEqual(peft.counts());
    },
  );

  it('an adapter of another model: one error lists every mismatch, and the model stays as it was', async () => {
    const small = adapted({ targetModules: ALL });
    const folder = join(temporaryFolder(), 'adapter');
    await small.savePretrained(folder);
    const other = newModel(CONFIG.with({ hiddenSize: 24, intermediateSize: 48, numHiddenLayers: 1 }));
    const before = tf.memory().numTensors;
    const load = () => PeftModel.fromPretrained(other, folder);
    expect(load).toThrow(UserError);
    expect(load).toThrow(/does not fit this model \(15 mismatches\); it was made for another model:/);
    expect(load).toThrow('base_model.model.backbone.embeddings.lora_embedding_B: has [16, 8], the model needs [24, 8]');
    expect(load).toThrow(
      'base_model.model.backbone.layers.0.mixer.x_proj.lora_A.weight: has [8, 32], the model needs [8, 48]',
    );
    expect(load).toThrow(
      'base_model.model.backbone.layers.1.mixer.out_proj.lora_B.weight: the model has no place for it',
    );
    expect(tf.memory().numTensors).toBe(before);
    expect([...other.modules.values()].every((module) => module.lora === null)).toBe(true);
  });

  it('a missing tensor and one with NaN are named', async () => {
    const folder = join(temporaryFolder(), 'adapter');
    cpSync(join(GOLDEN_FOLDER, 'tied', 'adapter'), folder, { recursive: true });
    const path = join(folder, 'adapter_model.safetensors');
    const source = openSafetensors(path);
    const tensors = Array.from(source.entries.values(), ({ name, shape }) => ({
      name,
      shape,
      dtype: 'F32' as const,
      values: source.readFloat32(name),
    }));
    source.close();
    const write = (kept: typeof tensors) =>
      writeSafetensors(
        path,
        kept.map(({ values, ...rest }) => ({ ...rest, data: () => values })),
      );
    const key = 'base_model.model.backbone.layers.1.mixer.x_proj.lora_B.weight';
    const model = await MambaForCausalLM.fromPretrained(join(GOLDEN_FOLDER, 'tied', 'model'), {
      backend: testedBackends()[0] ?? 'cpu',
    });
    onTestFinished(() => model.dispose());

    write(tensors.filter(({ name }) => name !== key));
    expect(() => PeftModel.fromPretrained(model, folder)).toThrow(
      `(1 mismatches); it was made for another model:\n  ${key}: missing, expected [34, 4]`,
    );

    const damaged = tensors.find(({ name }) => name === key);
    if (damaged) damaged.values[5] = Number.NEGATIVE_INFINITY;
    write(tensors);
    expect(() => PeftModel.fromPretrained(model, folder)).toThrow(
      new UserError(`${path}: tensor ${key} holds -Infinity at element 5; the adapter is damaged.`),
    );
  });
});

forEachBackend((backend) => {
  describe('dropout', () => {
    it('is active only while a step is set, and a function of seed and step', () => {
      const { model } = adapted({ targetModules: ALL, initLoraWeights: false, loraDropout: 0.4 });
      const plain = lossOf(model);
      const at = (seed: number, step: number) => {
        model.setDropout({ seed, step });
        const loss = lossOf(model);
        model.setDropout(null);
        return loss;
      };
      expect(at(1, 0)).not.toBe(plain);
      expect(at(1, 0)).toBe(at(1, 0));
      expect(at(1, 1)).not.toBe(at(1, 0));
      expect(at(2, 0)).not.toBe(at(1, 0));
      expect(lossOf(model)).toBe(plain);
    });

    it('leaves the embeddings and a dropout of 0 alone', () => {
      const onEmbeddings = adapted({ targetModules: ['embeddings'], initLoraWeights: false, loraDropout: 0.9 }).model;
      const none = adapted({ targetModules: ALL, initLoraWeights: false }).model;
      for (const model of [onEmbeddings, none]) {
        const plain = lossOf(model);
        model.setDropout({ seed: 1, step: 1 });
        expect(lossOf(model)).toBe(plain);
      }
    });

    it('gives the same gradients with gradient checkpointing', () => {
      const { model } = adapted({ targetModules: ALL, initLoraWeights: false, loraDropout: 0.4 });
      model.setDropout({ seed: 3, step: 7 });
      const plain = gradientsOf(model);
      model.gradientCheckpointing = true;
      for (const [name, values] of gradientsOf(model)) expectClose(values, plain.get(name) ?? [], { rtol: 5e-6, name });
    });
  });

  it.each(ALL)('gradient of the LoRA on %s against finite differences', (target) => {
    const { model } = adapted({ r: 2, loraAlpha: 4, targetModules: [target], initLoraWeights: false }, LIVELY);
    expect(model.trainableParameters().size).toBe(2);
    expectSlopes(model, backend);
  });
});
