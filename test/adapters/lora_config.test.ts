// SPDX-License-Identifier: Apache-2.0
/** LoraConfig: defaults, what it refuses and how it says so, adapter_config.json in and out. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { LoraConfigFields } from '../../adapters/index.ts';
import { LoraConfig, readAdapterConfig } from '../../adapters/index.ts';
import { ConfigError, UserError } from '../../src/errors.ts';
import { GOLDEN_FOLDER } from '../golden/golden.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

describe('fields', () => {
  it("have peft's defaults, and the Mamba model cards' targets", () => {
    const config = new LoraConfig();
    expect({ ...config }).toEqual({
      r: 8,
      loraAlpha: 8,
      loraDropout: 0,
      targetModules: ['x_proj', 'embeddings', 'in_proj', 'out_proj'],
      useRslora: false,
      initLoraWeights: true,
      bias: 'none',
      taskType: 'CAUSAL_LM',
      baseModelNameOrPath: null,
    });
    expect(config.scaling).toBe(1);
  });

  it('scale by alpha / r, with rslora by alpha / sqrt(r)', () => {
    expect(new LoraConfig({ r: 16, loraAlpha: 8 }).scaling).toBe(0.5);
    expect(new LoraConfig({ r: 16, loraAlpha: 8, useRslora: true }).scaling).toBe(2);
  });

  it('left undefined take the default', () => {
    expect(new LoraConfig({ r: undefined, loraAlpha: 4 } as Partial<LoraConfigFields>)).toMatchObject({
      r: 8,
      loraAlpha: 4,
    });
  });

  it.each<[Record<string, unknown>, string]>([
    [{ r: 0 }, 'r is 0, expected a whole number from 1'],
    [{ r: 2.5 }, 'r is 2.5, expected a whole number from 1'],
    [{ loraAlpha: 0 }, 'loraAlpha is 0, expected a number above 0'],
    [{ loraAlpha: Number.NaN }, 'loraAlpha is NaN, expected a number above 0'],
    [{ loraDropout: 1 }, 'loraDropout is 1, expected a probability from 0 to below 1'],
    [{ loraDropout: -0.1 }, 'loraDropout is -0.1, expected a probability from 0 to below 1'],
    [{ targetModules: [] }, 'targetModules must be module names or one valid regular expression'],
    [{ targetModules: ['in_proj', 3] }, 'targetModules must be module names or one valid regular expression'],
    [{ targetModules: '(' }, 'targetModules must be module names or one valid regular expression'],
    [{ initLoraWeights: 'pissa' }, 'initLoraWeights is "pissa", expected true, false or \'gaussian\''],
    [{ bias: 'all' }, 'bias is "all", expected \'none\''],
    [{ taskType: 'SEQ_CLS' }, 'taskType is "SEQ_CLS", expected \'CAUSAL_LM\''],
    [{ lora_alpha: 8 }, 'lora_alpha is no supported option; did you mean loraAlpha?'],
    [{ megatronConfig: {} }, 'megatronConfig is no supported option'],
  ])('%j is refused', (fields, message) => {
    expect(() => new LoraConfig(fields as Partial<LoraConfigFields>)).toThrow(
      new ConfigError(`LoraConfig: ${message}.`),
    );
  });

  it('several faults are reported together', () => {
    expect(() => new LoraConfig({ r: -1, loraDropout: 2 })).toThrow(/r is -1.*; loraDropout is 2/);
  });

  it('with() copies and checks again', () => {
    const config = new LoraConfig({ r: 4, targetModules: 'backbone.*' });
    expect(config.with({ loraAlpha: 32 })).toMatchObject({ r: 4, loraAlpha: 32, targetModules: 'backbone.*' });
    expect(() => config.with({ r: 0 })).toThrow(ConfigError);
  });
});

describe('adapter_config.json', () => {
  it("reads peft's own file", () => {
    expect({ ...readAdapterConfig(join(GOLDEN_FOLDER, 'seed-recipe', 'adapter_init')) }).toMatchObject({
      r: 8,
      loraAlpha: 8,
      targetModules: ['embeddings', 'x_proj', 'out_proj', 'in_proj'],
      baseModelNameOrPath: 'mamba-5m',
    });
    expect(readAdapterConfig(join(GOLDEN_FOLDER, 'rslora', 'adapter')).useRslora).toBe(true);
  });

  it('comes back as it was written', () => {
    const config = new LoraConfig({
      r: 3,
      loraAlpha: 7,
      loraDropout: 0.25,
      targetModules: '.*in_proj',
      useRslora: true,
      baseModelNameOrPath: 'a/b',
    });
    const json = JSON.parse(JSON.stringify(config.toJSON())) as Record<string, unknown>;
    expect(LoraConfig.fromJSON(json, 'here')).toEqual(config);
    expect(json).toMatchObject({
      peft_type: 'LORA',
      inference_mode: true,
      r: 3,
      lora_alpha: 7,
      lora_dropout: 0.25,
      target_modules: '.*in_proj',
    });
  });

  it('writes no key that an old peft does not know', () => {
    const golden = JSON.parse(
      readFileSync(join(GOLDEN_FOLDER, 'tied', 'adapter', 'adapter_config.json'), 'utf8'),
    ) as Record<string, unknown>;
    const written = Object.keys(new LoraConfig().toJSON());
    expect(written.filter((key) => !Object.hasOwn(golden, key))).toEqual([]);
    expect(written).toHaveLength(20);
  });

  const json = new LoraConfig().toJSON();
  it.each<[Record<string, unknown>, string]>([
    [{ peft_type: 'LOHA' }, 'here: peft_type is "LOHA", expected "LORA"; other adapter types are not supported.'],
    [{ peft_type: undefined }, 'here: peft_type is undefined, expected "LORA"; other adapter types are not supported.'],
    [{ use_dora: true }, 'here: options that are not supported: use_dora = true.'],
    [
      { use_dora: true, rank_pattern: { in_proj: 4 }, modules_to_save: ['lm_head'], layers_to_transform: [0] },
      'here: options that are not supported: layers_to_transform = [0], modules_to_save = ["lm_head"], rank_pattern = {"in_proj":4}, use_dora = true.',
    ],
    [{ r: '8' }, 'here: LoraConfig: r is 8, expected a whole number from 1.'],
    [{ lora_dropout: 'no' }, 'here: LoraConfig: loraDropout is no, expected a probability from 0 to below 1.'],
    [{ bias: 'lora_only' }, 'here: LoraConfig: bias is "lora_only", expected \'none\'.'],
  ])('%j is refused by name', (change, message) => {
    expect(() => LoraConfig.fromJSON({ ...json, ...change }, 'here')).toThrow(new ConfigError(message));
  });

  it('an adapter trained from another initialisation reads as a plain one: its tensors are what counts', () => {
    expect(LoraConfig.fromJSON({ ...json, init_lora_weights: 'pissa' }, 'here').initLoraWeights).toBe(true);
  });

  it('a folder that is none says what is there', () => {
    const folder = temporaryFolder();
    expect(() => readAdapterConfig(join(folder, 'gone'))).toThrow(
      new UserError(
        `${join(folder, 'gone')}: no such folder; expected an adapter folder with adapter_config.json and adapter_model.safetensors.`,
      ),
    );
    expect(() => readAdapterConfig(folder)).toThrow(
      new UserError(
        `${folder}: adapter_config.json and adapter_model.safetensors missing; an adapter folder holds both. It contains nothing.`,
      ),
    );
  });
});
