// SPDX-License-Identifier: Apache-2.0
/** Combined adapters: equal to peft's, exact where they should be, and one clear line for what cannot be combined. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { readAdapterFolder } from '../../adapters/adapter_folder.ts';
import { type CombineOptions, combineAdapters, getPeftModel, LoraConfig, PeftModel } from '../../adapters/index.ts';
import { ConfigError, UserError } from '../../src/errors.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { COMBINE_CASES, COMBINE_FOLDER, expectSameAdapter } from '../golden/combine.ts';
import { GOLDEN_FOLDER } from '../golden/golden.ts';
import { bestBackend, onBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { changedAdapter } from './adapter_copy.ts';

const MODEL = join(GOLDEN_FOLDER, 'tied', 'model');
const A = join(GOLDEN_FOLDER, 'tied', 'adapter');
const [B, C] = [join(COMBINE_FOLDER, 'b'), join(COMBINE_FOLDER, 'c')];

it.each(COMBINE_CASES)('$name is what peft makes of them', async ({ name, folders, weights, options }) => {
  const output = join(temporaryFolder(), 'combined');
  await combineAdapters(folders, weights, output, { ...options, baseModelNameOrPath: 'tied' });
  expectSameAdapter(output, join(COMBINE_FOLDER, name), name);
});

it('the config: its own scaling, the targets of all, the base', async () => {
  const output = join(temporaryFolder(), 'combined');
  const result = await combineAdapters([B, C], [1, 2], output, { combinationType: 'cat' });
  expect(result).toMatchObject({
    combinationType: 'cat',
    r: 7,
    adapters: [
      { adapter: B, weight: 1 },
      { adapter: C, weight: 2 },
    ],
  });
  expect(JSON.parse(readFileSync(join(output, 'adapter_config.json'), 'utf8'))).toMatchObject({
    r: 7,
    lora_alpha: 7,
    use_rslora: false,
    base_model_name_or_path: 'tied',
    target_modules: ['embeddings', 'in_proj', 'dt_proj', 'x_proj', 'out_proj'],
  });
  expect(readAdapterFolder(output).fingerprint).toBe(readAdapterFolder(B).fingerprint);
});

it('adapters that choose their modules alike keep the choice; others that exclude get the modules in full', async () => {
  const inner = changedAdapter(C, { config: { exclude_modules: ['norm_f'] } });
  const targetsOf = async (folders: string[]) => {
    const output = join(temporaryFolder(), 'combined');
    await combineAdapters(folders, [1, 1], output, { combinationType: 'cat' });
    const { targetModules, excludeModules } = readAdapterFolder(output).config;
    return { targetModules, excludeModules };
  };
  expect(await targetsOf([inner, inner])).toMatchObject({ excludeModules: ['norm_f'] });
  const mixed = await targetsOf([inner, C]);
  expect(mixed.excludeModules).toBeNull();
  expect(mixed.targetModules).toContain('backbone.layers.0.mixer.x_proj');
});

it('expressions become alternatives; names and expressions together the modules in full', async () => {
  const expression = changedAdapter(C, { config: { target_modules: '.*\\.(x_proj|out_proj|embeddings)' } });
  const targetsOf = async (folders: string[]) => {
    const output = join(temporaryFolder(), 'combined');
    await combineAdapters(folders, [1, 1], output, { combinationType: 'cat' });
    return readAdapterFolder(output).config.targetModules;
  };
  const other = changedAdapter(B, { config: { target_modules: '.*\\.(in_proj|dt_proj|embeddings)' } });
  expect(await targetsOf([expression, other])).toBe(
    '(.*\\.(x_proj|out_proj|embeddings))|(.*\\.(in_proj|dt_proj|embeddings))',
  );
  expect(await targetsOf([B, expression])).toContain('backbone.layers.1.mixer.dt_proj');
});

onBackend(bestBackend, () => {
  it('cat and a large enough svd give the weighted sum of the updates, on the model too', async () => {
    const model = await MambaForCausalLM.fromPretrained(MODEL, { backend: bestBackend });
    onTestFinished(() => model.dispose());
    const folder = temporaryFolder();
    await combineAdapters([B, C], [0.5, -0.5], join(folder, 'cat'), { combinationType: 'cat' });
    await combineAdapters([B, C], [0.5, -0.5], join(folder, 'svd'), { combinationType: 'svd', svdRank: 7 });
    const logits: Float32Array[] = [];
    for (const name of ['cat', 'svd']) {
      const fresh = await MambaForCausalLM.fromPretrained(MODEL, { backend: bestBackend });
      PeftModel.fromPretrained(fresh, join(folder, name));
      const result = fresh.forward({ inputIds: [[1, 2, 3, 4]] });
      logits.push(result.logits.dataSync<'float32'>().slice());
      result.logits.dispose();
      fresh.dispose();
    }
    const base = model.forward({ inputIds: [[1, 2, 3, 4]] }).logits;
    expectClose(logits[1] ?? [], logits[0] ?? [], { rtol: 1e-4 });
    expect(() => expectClose(logits[0] ?? [], base.dataSync(), { rtol: 1e-2 })).toThrow();
    base.dispose();
  });

  it('an adapter minus itself is zero', async () => {
    const output = join(temporaryFolder(), 'zero');
    await combineAdapters([B, B], [1, -1], output, { combinationType: 'svd' });
    for (const module of readAdapterFolder(output).modules.values()) {
      expect(Math.max(...module.B.data.map(Math.abs)), module.name).toBeLessThan(1e-6);
    }
  });

  it('refuses adapters of different bases: by fingerprint, by name, by shape', async () => {
    const other = MambaForCausalLM.fromConfig((await loadConfig()).config, { seed: 9 });
    const folder = temporaryFolder();
    await other.savePretrained(join(folder, 'other'));
    other.dispose();
    const model = await MambaForCausalLM.fromPretrained(join(folder, 'other'), { backend: bestBackend });
    onTestFinished(() => model.dispose());
    await getPeftModel(model, new LoraConfig({ r: 4 })).savePretrained(join(folder, 'stranger'));
    await refused(
      [B, join(folder, 'stranger')],
      {},
      /different base models: the weights that they were trained on differ/,
    );
    const unnamed = [A, changedAdapter(A, { config: { base_model_name_or_path: 'another' } })];
    await refused(unnamed, {}, /different base models: they name null and "another" as their base; give the base if/);
    const narrow = changedAdapter(A, {
      tensors: (tensors) => {
        const key = 'base_model.model.backbone.layers.0.mixer.in_proj.lora_A.weight';
        tensors.set(key, { shape: [4, 3], data: new Float32Array(12) });
      },
    });
    await refused(
      [A, narrow],
      {},
      /different base models: backbone\.layers\.0\.mixer\.in_proj is \[.*\] in one and \[.*, 3\]/,
    );
  });
});

async function loadConfig() {
  const model = await MambaForCausalLM.fromPretrained(MODEL, { backend: bestBackend });
  onTestFinished(() => model.dispose());
  return model;
}

async function refused(folders: string[], options: CombineOptions, message: RegExp, weights = folders.map(() => 1)) {
  const output = join(temporaryFolder(), 'combined');
  const work = combineAdapters(folders, weights, output, options);
  await expect(work).rejects.toThrow(UserError);
  await expect(work).rejects.toThrow(message);
  expect(existsSync(output)).toBe(false);
}

describe('what cannot be combined', () => {
  it.each<[string, CombineOptions, RegExp, number[]?]>([
    ['a pruning type without density', { combinationType: 'ties' }, /ties needs a density/],
    ['a density without pruning', { combinationType: 'cat', density: 0.5 }, /cat takes no density; ties, dare_linear/],
    ['a density of 0', { combinationType: 'ties', density: 0 }, /density is 0, expected above 0 and up to 1/],
    ['a density of 1.5', { combinationType: 'ties', density: 1.5 }, /density is 1\.5, expected above 0 and up to 1/],
    ['a rank without svd', { combinationType: 'cat', svdRank: 3 }, /cat takes no svd rank/],
    ['a rank of 0', { svdRank: 0 }, /svd rank is 0, expected from 1/],
    ['a sign method without signs', { majoritySignMethod: 'total' }, /svd takes no majority sign method/],
    ['a seed without chance', { combinationType: 'linear', seed: 1 }, /linear draws nothing at random/],
    ['too few weights', {}, /found 1 weights for 2 adapters/, [1]],
    ['a weight that is no number', {}, /the weight NaN is no finite number/, [1, Number.NaN]],
  ])('%s', async (_, options, message, weights) => {
    await refused([B, B], options, message, weights);
    const output = join(temporaryFolder(), 'x');
    await expect(combineAdapters([B, B], weights ?? [1, 1], output, options)).rejects.toThrow(ConfigError);
  });

  it('no adapters', () => refused([], {}, /found no adapters/));

  it('different ranks where one is needed', () =>
    refused(
      [B, C],
      { combinationType: 'linear' },
      /linear needs adapters of one rank, found 4, 3 .*cat and svd take any/,
    ));

  it('NaN', async () => {
    const damaged = changedAdapter(B, {
      tensors: (tensors) => tensors.get('base_model.model.backbone.embeddings.lora_embedding_B')?.data.fill(NaN, 5, 6),
    });
    await refused([B, damaged], {}, /lora_B of backbone\.embeddings holds NaN at element 5; the adapter is damaged/);
  });

  it('a rank that is not the config’s, and first values that were taken out of the base', async () => {
    const other = changedAdapter(B, { config: { r: 3 } });
    await refused([B, other], {}, /has rank 4, and adapter_config\.json says 3/);
    const pissa = changedAdapter(B, { config: { init_lora_weights: 'pissa' } });
    await refused(
      [B, pissa],
      {},
      /its init_lora_weights is pissa, so it belongs to a base that is without.*merge it instead/,
    );
  });

  it('one matrix without the other, and ranks that differ', async () => {
    const key = 'base_model.model.backbone.layers.0.mixer.in_proj.lora_B.weight';
    const half = changedAdapter(B, { tensors: (tensors) => tensors.delete(key) });
    await refused([B, half], {}, /in_proj has lora_A without lora_B/);
    const skewed = changedAdapter(B, {
      tensors: (tensors) => tensors.set(key, { shape: [2, 3], data: new Float32Array(6) }),
    });
    await refused([B, skewed], {}, /in_proj has lora_A \[4,\d+\] and lora_B \[2,3\], whose ranks differ/);
  });

  it('more than lora_A and lora_B', async () => {
    const saved = changedAdapter(B, {
      tensors: (tensors) =>
        tensors.set('base_model.model.backbone.norm_f.weight', { shape: [2], data: new Float32Array(2) }),
    });
    await refused(
      [B, saved],
      {},
      /1 tensors besides lora_A and lora_B \(such as .*norm_f\.weight\), and that cannot be combined/,
    );
  });

  it('a folder that holds something stays as it is', async () => {
    const output = join(temporaryFolder(), 'mine');
    mkdirSync(output);
    writeFileSync(join(output, 'mine.txt'), '');
    await expect(combineAdapters([B], [1], output)).rejects.toThrow(/is not empty; choose another folder/);
    expect(readdirSync(output)).toEqual(['mine.txt']);
  });
});
