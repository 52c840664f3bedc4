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
      useDora: false,
      initLoraWeights: true,
      bias: 'none',
      excludeModules: null,
      layersToTransform: null,
      layersPattern: null,
      rankPattern: {},
      alphaPattern: {},
      loraBias: false,
      modulesToSave: null,
      trainableTokenIndices: null,
      taskType: 'CAUSAL_LM',
      baseModelNameOrPath: null,
    });
    expect(config.scalingOf('backbone.embeddings')).toBe(1);
  });

  it('scale by alpha / r, with rslora by alpha / sqrt(r)', () => {
    expect(new LoraConfig({ r: 16, loraAlpha: 8 }).scalingOf('a')).toBe(0.5);
    expect(new LoraConfig({ r: 16, loraAlpha: 8, useRslora: true }).scalingOf('a')).toBe(2);
  });

  it('patterns give single modules their rank and alpha: the first name or expression that matches', () => {
    const config = new LoraConfig({
      r: 4,
      loraAlpha: 8,
      rankPattern: { 'layers.0.mixer.in_proj': 2, in_proj: 16, x_proj: 1 },
      alphaPattern: { '(in|x)_proj': 32 },
    });
    const ranks = ['0.mixer.in_proj', '1.mixer.in_proj', '0.mixer.x_proj', '0.mixer.dt_proj'].map((name) => {
      const full = `backbone.layers.${name}`;
      return [config.rankOf(full), config.scalingOf(full)];
    });
    expect(ranks).toEqual([
      [2, 16],
      [16, 2],
      [1, 32],
      [4, 2],
    ]);
    expect(config.rankOf('backbone.layers.0.mixer.fin_proj'), 'a name is whole parts').toBe(4);
    expect(config.with({ useRslora: true }).scalingOf('backbone.layers.1.mixer.in_proj')).toBe(8);
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
    [
      { initLoraWeights: 'eva' },
      "initLoraWeights is \"eva\", expected true, false, 'gaussian', 'pissa', 'olora' or 'orthogonal'",
    ],
    [{ bias: 'some' }, "bias is \"some\", expected 'none', 'all' or 'lora_only'"],
    [{ excludeModules: [] }, 'excludeModules must be module names or one valid regular expression'],
    [{ layersToTransform: [-1] }, 'layersToTransform is [-1], expected whole numbers from 0'],
    [{ layersToTransform: [] }, 'layersToTransform is [], expected whole numbers from 0'],
    [{ layersToTransform: 0, layersPattern: [''] }, 'layersPattern must be names of the list of layers'],
    [{ rankPattern: { '(': 3 } }, 'rankPattern: "(" is neither a module name nor a valid regular expression'],
    [{ rankPattern: { in_proj: 0 } }, 'rankPattern: "in_proj" is 0, expected a whole number from 1'],
    [{ rankPattern: 3 }, 'rankPattern must be an object of module names and numbers'],
    [{ alphaPattern: { in_proj: -1 } }, 'alphaPattern: "in_proj" is -1, expected a number above 0'],
    [{ modulesToSave: [] }, 'modulesToSave must be names of modules or parameters'],
    [{ modulesToSave: 'lm_head' }, 'modulesToSave must be names of modules or parameters'],
    [{ loraBias: 1 }, 'loraBias is 1, expected true or false'],
    [
      { targetModules: '.*', layersToTransform: 1 },
      'layersToTransform needs targetModules as a list of names; an expression can say the layers itself',
    ],
    [{ layersPattern: 'layers' }, 'layersPattern says what layersToTransform counts, and that is not given'],
    [{ loraBias: true, useDora: true }, 'loraBias and useDora exclude each other'],
    [
      { loraBias: true, initLoraWeights: 'gaussian' },
      'loraBias needs initLoraWeights true or false, and it is "gaussian"',
    ],
    [{ useQalora: true }, 'useQalora is not supported: the base model is not quantized'],
    [{ fan_in_fan_out: true }, 'fan_in_fan_out is not supported: the weights of Mamba are [out, in]'],
    [{ taskType: 'SEQ_CLS' }, 'taskType is "SEQ_CLS", expected \'CAUSAL_LM\''],
    [{ lora_alpha: 8 }, 'lora_alpha is no supported option; did you mean loraAlpha?'],
    [{ megatronConfig: {} }, 'megatronConfig is not supported: one process trains on one device'],
    [{ colour: 'red' }, 'colour is no supported option'],
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
      excludeModules: ['0.mixer.in_proj'],
      rankPattern: { x_proj: 2 },
      alphaPattern: { x_proj: 5 },
      bias: 'all',
      loraBias: true,
      modulesToSave: ['lm_head'],
      trainableTokenIndices: { embeddings: [5, 3] },
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
    [
      { use_qalora: true },
      'here: options that are not supported: use_qalora = true (the base model is not quantized).',
    ],
    [
      { use_qalora: true, layer_replication: [[0, 2]] },
      'here: options that are not supported: layer_replication = [[0,2]] (a model has the layers of its checkpoint); use_qalora = true (the base model is not quantized).',
    ],
    [{ r: '8' }, 'here: LoraConfig: r is 8, expected a whole number from 1.'],
    [{ lora_dropout: 'no' }, 'here: LoraConfig: loraDropout is no, expected a probability from 0 to below 1.'],
    [{ bias: 'yes' }, "here: LoraConfig: bias is \"yes\", expected 'none', 'all' or 'lora_only'."],
  ])('%j is refused by name', (change, message) => {
    expect(() => LoraConfig.fromJSON({ ...json, ...change }, 'here')).toThrow(new ConfigError(message));
  });

  it.each([
    ['pissa', 'pissa'],
    ['olora', 'olora'],
    ['gaussian', true],
    ['eva', true],
    ['orthogonal', true],
    [false, true],
  ])('init_lora_weights %s reads as %s: what does not change the base is of no account', (stored, wanted) => {
    expect(LoraConfig.fromJSON({ ...json, init_lora_weights: stored }, 'here').initLoraWeights).toBe(wanted);
  });

  it.each(['pissa_niter_4', 'corda', 'loftq', 'lora_ga'])('init_lora_weights %s is refused', (init) => {
    expect(() => LoraConfig.fromJSON({ ...json, init_lora_weights: init }, 'here')).toThrow(
      new ConfigError(
        `here: init_lora_weights is "${init}": the adapter belongs to changed base weights that its files do not give. In peft, save it as a plain one (save_pretrained with path_initial_model_for_weight_conversion).`,
      ),
    );
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
