// SPDX-License-Identifier: Apache-2.0
/** Merging folders part by part, with its receipt; what is above the tolerance or does not fit leaves nothing. */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it, onTestFinished } from 'vitest';
import { getPeftModel, LoraConfig, mergeAdapter, mergeAndSave, PeftModel, RECEIPT_FILE } from '../../adapters/index.ts';
import { openSafetensors } from '../../src/checkpoint/safetensors.ts';
import { writeSafetensors } from '../../src/checkpoint/safetensors_writer.ts';
import { UserError } from '../../src/errors.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { MambaConfig } from '../../src/model/config.ts';
import { openStreamedModel, type StreamedModel } from '../../src/model/streamed_model.ts';
import { readGolden } from '../golden/golden.ts';
import { bestBackend, forEachBackend, onBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

const PROBE = { source: 'fixed ids', inputIds: [3, 14, 15, 9, 26, 5, 35, 8, 9, 7] };
const CONFIG = new MambaConfig({ vocabSize: 40, hiddenSize: 16, numHiddenLayers: 2, stateSize: 4, timeStepRank: 2 });

function open(folder: string): StreamedModel {
  const model = openStreamedModel(folder);
  onTestFinished(() => model.close());
  return model;
}

function goldenBase(name = 'tied'): { base: StreamedModel; adapter: string } {
  const { folder } = readGolden(name);
  return { base: open(join(folder, 'model')), adapter: join(folder, 'adapter') };
}

async function load(folder: string): Promise<MambaForCausalLM> {
  const model = await MambaForCausalLM.fromPretrained(folder, { backend: bestBackend });
  onTestFinished(() => model.dispose());
  return model;
}

/** A random model and a random adapter of it, as folders. */
async function randomPair(targetModules: string[], dtype: 'F32' | 'BF16' = 'F32', tieWordEmbeddings = true) {
  const folder = temporaryFolder();
  const made = MambaForCausalLM.fromConfig(CONFIG.with({ tieWordEmbeddings }), { seed: 2 });
  await made.savePretrained(join(folder, 'model'), { dtype });
  made.dispose();
  const model = await load(join(folder, 'model'));
  const peft = getPeftModel(model, new LoraConfig({ r: 4, loraAlpha: 6, targetModules, initLoraWeights: false }));
  await peft.savePretrained(join(folder, 'adapter'));
  return { base: open(join(folder, 'model')), adapter: join(folder, 'adapter'), folder, peft };
}

const ALL = ['embeddings', 'in_proj', 'x_proj', 'dt_proj', 'out_proj'];
const readJson = (...path: string[]) => JSON.parse(readFileSync(join(...path), 'utf8')) as Record<string, unknown>;

forEachBackend((backend) => {
  it.each(['tied', 'rslora', 'falcon_mamba'])(
    '%s: the same tensors as merging in memory, and the golden logits',
    async (name) => {
      const golden = readGolden(name);
      const { base, adapter } = goldenBase(name);
      const folder = temporaryFolder();
      const before = tf.memory().numTensors;
      const receipt = await mergeAdapter(base, adapter, join(folder, 'streamed'), PROBE);
      expect(tf.memory().numTensors).toBe(before);
      expect(receipt.max_abs_logit_difference).toBeLessThan(1e-4);
      expect(receipt.tied_embeddings.head).toBe(name === 'falcon_mamba' ? 'unchanged' : 'untied');

      const model = await MambaForCausalLM.fromPretrained(join(golden.folder, 'model'), { backend });
      await mergeAndSave(PeftModel.fromPretrained(model, adapter), join(folder, 'memory'));
      model.dispose();
      const bytes = (part: string) => readFileSync(join(folder, part, 'model.safetensors'));
      expect(bytes('streamed').equals(bytes('memory'))).toBe(true);

      const merged = await MambaForCausalLM.fromPretrained(join(folder, 'streamed'), { backend });
      const { logits } = merged.forward({ inputIds: golden.rows('input_ids') });
      expectClose(logits.dataSync(), golden.floats('lora_logits'), { rtol: 1e-5, name: 'merged logits' });
      logits.dispose();
      merged.dispose();
    },
  );
});

onBackend(bestBackend, () => {
  it('the receipt is what it returns, and names what went in and came out', async () => {
    const { base, adapter } = goldenBase();
    const output = join(temporaryFolder(), 'merged');
    const receipt = await mergeAdapter(base, adapter, output, PROBE);
    expect(readJson(output, RECEIPT_FILE)).toEqual(receipt);
    expect(receipt).toMatchObject({
      tolerance: 1e-4,
      argmax_agreement: 1,
      probe: { source: 'fixed ids', tokens: 10 },
      base: { name: base.source.folder, sha256: { 'model.safetensors': expect.stringMatching(/^[0-9a-f]{64}$/) } },
      adapter: { folder: adapter, sha256: { 'adapter_model.safetensors': expect.stringMatching(/^[0-9a-f]{64}$/) } },
      base_matches_adapter: null,
      result: { dtypes: ['F32'], model_sha256: { 'config.json': expect.any(String) } },
      tied_embeddings: { base_is_tied: true, policy: 'untie', head: 'untied' },
      adapter_modules: [],
    });
    expect(receipt.merged_modules).toHaveLength(7);
    expect(receipt.relative_difference).toBe(receipt.max_abs_logit_difference / receipt.largest_logit);
  });

  describe('policies for tied embeddings', () => {
    it('tied_both keeps one matrix, and says how far that is from base and adapter', async () => {
      const { base, adapter } = goldenBase();
      const output = join(temporaryFolder(), 'merged');
      const receipt = await mergeAdapter(base, adapter, output, PROBE, { tiedEmbeddings: 'tied_both' });
      expect(receipt.tied_embeddings).toEqual({
        base_is_tied: true,
        policy: 'tied_both',
        head: 'changed with the embeddings',
      });
      expect(receipt.max_abs_logit_difference).toBeLessThan(1e-4);
      expect(receipt.max_abs_difference_to_untied).toBeGreaterThan(0.1);
      expect(readJson(output, 'config.json')).toMatchObject({ tie_word_embeddings: true });
      const source = openSafetensors(join(output, 'model.safetensors'));
      expect(source.entries.has('lm_head.weight')).toBe(false);
      source.close();
    });

    it('refuse refuses where the head is affected, and only there', async () => {
      const { base, adapter } = goldenBase();
      const output = join(temporaryFolder(), 'merged');
      const refused = mergeAdapter(base, adapter, output, PROBE, { tiedEmbeddings: 'refuse' });
      await expect(refused).rejects.toThrow(/the head is tied, and the policy for that is refuse; untie keeps/);
      expect(existsSync(output)).toBe(false);
      const inner = await randomPair(['in_proj']);
      const options = { tiedEmbeddings: 'refuse' } as const;
      const receipt = await mergeAdapter(inner.base, inner.adapter, join(inner.folder, 'merged'), PROBE, options);
      expect(receipt.tied_embeddings.head).toBe('unchanged');
      const own = await randomPair(['embeddings'], 'F32', false);
      const untied = await mergeAdapter(own.base, own.adapter, join(own.folder, 'merged'), PROBE, options);
      expect(untied.tied_embeddings).toMatchObject({ base_is_tied: false, head: 'unchanged' });
    });
  });

  describe('types and shards', () => {
    it("keeps the base's type, or takes the one asked for; config.json says which", async () => {
      const { base, adapter, folder } = await randomPair(ALL, 'BF16');
      const kept = await mergeAdapter(base, adapter, join(folder, 'kept'), PROBE);
      expect(kept.result.dtypes).toEqual(['BF16']);
      expect(kept.tolerance).toBe(0.05);
      expect(readJson(folder, 'kept', 'config.json')).toMatchObject({ dtype: 'bfloat16' });
      const half = await mergeAdapter(base, adapter, join(folder, 'half'), PROBE, { dtype: 'F16' });
      expect(half.result.dtypes).toEqual(['F16']);
      expect(half.relative_difference).toBeLessThan(kept.relative_difference);
      const whole = await mergeAdapter(base, adapter, join(folder, 'whole'), PROBE, { dtype: 'F32' });
      expect(whole.relative_difference).toBeLessThan(1e-5);
      const size = (name: string) => statSync(join(folder, name, 'model.safetensors')).size;
      expect(size('kept') / size('whole')).toBeCloseTo(0.5, 1);
      expect(kept.base_matches_adapter).toBe(true);
    });

    it('writes shards above the size asked for, which load', async () => {
      const { base, adapter, folder, peft } = await randomPair(ALL);
      const output = join(folder, 'merged');
      await mergeAdapter(base, adapter, output, PROBE, { maxShardSize: 4000 });
      const files = readdirSync(output).filter((name) => name.endsWith('.safetensors'));
      expect(files.length).toBeGreaterThan(3);
      expect(readJson(output, 'model.safetensors.index.json').weight_map).toHaveProperty(['lm_head.weight']);
      const merged = await load(output);
      const [found, wanted] = [merged, peft.model].map((model) => model.forward({ inputIds: [PROBE.inputIds] }).logits);
      expectClose(found?.dataSync() ?? [], wanted?.dataSync() ?? [], { rtol: 1e-5 });
      tf.dispose([found, wanted] as tf.Tensor[]);
    });
  });

  describe('for peft', () => {
    it('merges what peft refuses or misapplies, and leaves the rest in an adapter', async () => {
      const { base, adapter, folder, peft } = await randomPair(ALL);
      const output = join(folder, 'export');
      const receipt = await mergeAdapter(base, adapter, output, PROBE, { peftCompatible: true });
      const kinds = (names: string[]) => [...new Set(names.map((name) => name.split('.').at(-1)))].sort();
      expect(kinds(receipt.merged_modules)).toEqual(['dt_proj', 'embeddings', 'out_proj']);
      expect(kinds(receipt.adapter_modules)).toEqual(['in_proj', 'x_proj']);
      expect(readdirSync(output).sort()).toEqual(['adapter', RECEIPT_FILE, 'model'].sort());
      expect(readJson(output, 'adapter', 'adapter_config.json')).toMatchObject({
        base_model_name_or_path: join(output, 'model'),
        target_modules: ['in_proj', 'x_proj'],
        r: 4,
        lora_alpha: 6,
      });
      const model = await load(join(output, 'model'));
      PeftModel.fromPretrained(model, join(output, 'adapter'));
      const [found, wanted] = [model, peft.model].map((one) => one.forward({ inputIds: [PROBE.inputIds] }).logits);
      expectClose(found?.dataSync() ?? [], wanted?.dataSync() ?? [], { rtol: 1e-5 });
      tf.dispose([found, wanted] as tf.Tensor[]);
    });

    it('names the modules in full where a short name would mean more', async () => {
      const { base, adapter, folder } = await randomPair(['0.mixer.in_proj', '1.mixer.out_proj']);
      await mergeAdapter(base, adapter, join(folder, 'export'), PROBE, { peftCompatible: true });
      expect(readJson(folder, 'export', 'adapter', 'adapter_config.json')).toMatchObject({
        target_modules: ['backbone.layers.0.mixer.in_proj'],
      });
    });

    it('says so when nothing would be left', async () => {
      const { base, adapter, folder } = await randomPair(['out_proj']);
      const refused = mergeAdapter(base, adapter, join(folder, 'export'), PROBE, { peftCompatible: true });
      await expect(refused).rejects.toThrow(
        new UserError(
          `${adapter}: it adapts out_proj only, and peft can use none of these on Mamba; merge without the peft-compatible export.`,
        ),
      );
    });
  });

  describe('leaves nothing', () => {
    const leavesNothing = async (folder: string, work: Promise<unknown>, message: RegExp) => {
      await expect(work).rejects.toThrow(UserError);
      await expect(work).rejects.toThrow(message);
      expect(readdirSync(folder).filter((name) => name.includes('merged'))).toEqual([]);
    };

    it('above the tolerance', async () => {
      const { base, adapter, folder } = await randomPair(ALL, 'BF16');
      const work = mergeAdapter(base, adapter, join(folder, 'merged'), PROBE, { tolerance: 1e-7 });
      await leavesNothing(folder, work, /logits differ by [\d.]+ from those of base and adapter.*Nothing was written/);
    });

    it('when the adapter holds NaN', async () => {
      const { base, adapter, folder } = await randomPair(ALL);
      spoil(join(adapter, 'adapter_model.safetensors'), (tensors) => {
        const key = 'base_model.model.backbone.layers.0.mixer.x_proj.lora_B.weight';
        tensors.get(key)?.data.fill(Number.NaN, 2, 3);
      });
      const work = mergeAdapter(base, adapter, join(folder, 'merged'), PROBE);
      await leavesNothing(folder, work, /x_proj\.lora_B\.weight holds NaN at element 2; the adapter is damaged/);
    });

    it('when the base has no lm_head that its config wants', async () => {
      const { folder } = await randomPair(ALL, 'F32', false);
      spoil(join(folder, 'model', 'model.safetensors'), (tensors) => tensors.delete('lm_head.weight'));
      expect(() => openStreamedModel(join(folder, 'model'))).toThrow('missing: lm_head.weight [40,16]');
    });

    it('when the adapter is of another model', async () => {
      const folder = temporaryFolder();
      const { base } = goldenBase('tied');
      const work = mergeAdapter(base, goldenBase('rslora').adapter, join(folder, 'merged'), PROBE);
      await leavesNothing(folder, work, /does not fit/);
    });
  });

  it('knows an adapter of other weights of the same shape by their fingerprint', async () => {
    const { adapter, folder } = await randomPair(['in_proj']);
    const other = MambaForCausalLM.fromConfig(CONFIG, { seed: 3 });
    await other.savePretrained(join(folder, 'other'));
    other.dispose();
    const receipt = await mergeAdapter(open(join(folder, 'other')), adapter, join(folder, 'merged'), PROBE);
    expect(receipt.base_matches_adapter).toBe(false);
  });
});

/** Rewrites a safetensors file. */
function spoil(
  path: string,
  change: (tensors: Map<string, { shape: readonly number[]; data: Float32Array }>) => void,
): void {
  const source = openSafetensors(path);
  const tensors = new Map(
    [...source.entries.values()].map(({ name, shape }) => [name, { shape, data: source.readFloat32(name) }]),
  );
  source.close();
  change(tensors);
  writeSafetensors(
    path,
    [...tensors].map(([name, { shape, data }]) => ({ name, shape, dtype: 'F32', data: () => data })),
  );
}
