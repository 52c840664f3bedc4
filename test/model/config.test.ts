// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest';
import { ConfigError } from '../../src/errors.ts';
import { MambaConfig, type MambaConfigFields } from '../../src/model/config.ts';

test("the defaults are transformers'", () => {
  expect(new MambaConfig()).toMatchObject({
    vocabSize: 50280,
    hiddenSize: 768,
    stateSize: 16,
    numHiddenLayers: 32,
    layerNormEpsilon: 1e-5,
    padTokenId: 0,
    bosTokenId: 0,
    eosTokenId: 0,
    expand: 2,
    convKernel: 4,
    useBias: false,
    useConvBias: true,
    hiddenAct: 'silu',
    initializerRange: 0.1,
    residualInFp32: true,
    timeStepRank: 48,
    timeStepScale: 1,
    timeStepMin: 0.001,
    timeStepMax: 0.1,
    timeStepInitScheme: 'random',
    timeStepFloor: 1e-4,
    rescalePrenormResidual: false,
    useCache: true,
    tieWordEmbeddings: true,
    intermediateSize: 1536,
  });
});

test('rank and inner size follow the hidden size unless given', () => {
  expect(new MambaConfig({ hiddenSize: 40 })).toMatchObject({ timeStepRank: 3, intermediateSize: 80 });
  expect(new MambaConfig({ hiddenSize: 10, expand: 1.55 }).intermediateSize).toBe(15);
  const falconLike = MambaConfig.fromJSON({ hidden_size: 4096, intermediate_size: 8192, expand: 16 }, 'x');
  expect(falconLike).toMatchObject({ intermediateSize: 8192, expand: 16 });
  expect(MambaConfig.fromJSON({ hidden_size: 40, time_step_rank: 'auto' }, 'x').timeStepRank).toBe(3);
});

test('a config in both vocabularies, as the -hf models have it', () => {
  const config = MambaConfig.fromJSON(
    {
      model_type: 'mamba',
      hidden_size: 768,
      d_model: 768,
      d_inner: 1536,
      n_layer: 24,
      num_hidden_layers: 24,
      ssm_cfg: {},
      rms_norm: true,
      fused_add_norm: true,
      pad_vocab_size_multiple: 8,
      vocab_size: 50280,
      torch_dtype: 'float32',
    },
    'config.json',
  );
  expect(config).toMatchObject({ numHiddenLayers: 24, vocabSize: 50280, tieWordEmbeddings: true, timeStepRank: 48 });
  expect(config.extra).toEqual({ torch_dtype: 'float32' });
});

test('the original vocabulary', () => {
  const config = MambaConfig.fromJSON(
    {
      d_model: 64,
      n_layer: 3,
      vocab_size: 50277,
      tie_embeddings: false,
      ssm_cfg: {
        d_state: 8,
        d_conv: 3,
        expand: 3,
        dt_rank: 5,
        dt_min: 0.01,
        conv_bias: false,
        bias: true,
        layer: 'Mamba1',
      },
    },
    'config.json',
  );
  expect(config).toMatchObject({
    hiddenSize: 64,
    numHiddenLayers: 3,
    vocabSize: 50280,
    tieWordEmbeddings: false,
    stateSize: 8,
    convKernel: 3,
    intermediateSize: 192,
    timeStepRank: 5,
    timeStepMin: 0.01,
    useConvBias: false,
    useBias: true,
    rescalePrenormResidual: true,
  });
  const unpadded = { d_model: 32, n_layer: 1, vocab_size: 97, pad_vocab_size_multiple: 1 };
  expect(MambaConfig.fromJSON(unpadded, 'x').vocabSize).toBe(97);
  expect(MambaConfig.fromJSON({ d_model: 32 }, 'x')).toMatchObject({ numHiddenLayers: 64, vocabSize: 50280 });
});

test.each([
  [{ rms_norm: false }, 'rms_norm is false, so the model has LayerNorm layers'],
  [{ attn_layer_idx: [3] }, 'attn_layer_idx is [3], so the model has attention layers; expected none.'],
  [{ d_intermediate: 100 }, 'd_intermediate is 100, so the model has MLP layers'],
  [{ ssm_cfg: { layer: 'Mamba2' } }, 'ssm_cfg.layer is "Mamba2"; expected "Mamba1"'],
  [{ ssm_cfg: { layer: 'Mamba3' } }, 'ssm_cfg.layer is "Mamba3"; expected "Mamba1"'],
  [{ ssm_cfg: { headdim: 64 } }, 'ssm_cfg.headdim is not known; expected d_state, d_conv'],
  [{ ssm_cfg: 3 }, 'ssm_cfg is 3; expected an object.'],
  [{ vocab_size: '97' }, 'vocab_size is "97"; expected a whole number from 1.'],
  [{ pad_vocab_size_multiple: 0 }, 'pad_vocab_size_multiple is 0; expected a whole number from 1.'],
])('the original vocabulary refuses %j', (json, message) => {
  const parse = () => MambaConfig.fromJSON({ d_model: 32, n_layer: 1, vocab_size: 97, ...json }, 'dir/config.json');
  expect(parse).toThrow(ConfigError);
  expect(parse).toThrow(`dir/config.json: ${message}`);
});

test.each([
  [{ vocab_size: 0 }, 'vocab_size is 0, expected a whole number from 1'],
  [{ hidden_size: 1.5 }, 'hidden_size is 1.5, expected a whole number from 1'],
  [{ layer_norm_epsilon: 'small' }, 'layer_norm_epsilon is "small", expected a number above 0'],
  [{ use_bias: 1 }, 'use_bias is 1, expected true or false'],
  [{ hidden_act: 'gelu' }, 'hidden_act is "gelu", expected "silu" (other activations are not supported)'],
  [{ eos_token_id: [1, 2] }, 'eos_token_id is [1,2], expected a token id (a whole number from 0) or null'],
  [{ time_step_rank: 'big' }, 'time_step_rank is "big", expected a whole number from 1 or "auto"'],
  [{ time_step_init_scheme: 'zero' }, 'time_step_init_scheme is "zero", expected "random" or "constant"'],
  [{ model_type: 'falcon_mamba', mixer_rms_eps: 0 }, 'mixer_rms_eps is 0, expected a number above 0'],
  [
    { model_type: 'mamba2' },
    'model_type is "mamba2", expected "mamba" or "falcon_mamba" (this project runs Mamba-1 models)',
  ],
])('%j is refused with key, value and file', (json, message) => {
  expect(() => MambaConfig.fromJSON(json, 'dir/config.json')).toThrow(ConfigError);
  expect(() => MambaConfig.fromJSON(json, 'dir/config.json')).toThrow('dir/config.json: ');
  expect(() => MambaConfig.fromJSON(json, 'dir/config.json')).toThrow(message);
});

test('falcon_mamba keeps its type, its architecture and its epsilon', () => {
  const config = MambaConfig.fromJSON({ model_type: 'falcon_mamba', hidden_size: 32, use_falcon_mambapy: true }, 'c');
  expect(config).toMatchObject({ modelType: 'falcon_mamba', mixerRmsEps: 1e-6 });
  expect(config.toJSON()).toMatchObject({
    architectures: ['FalconMambaForCausalLM'],
    model_type: 'falcon_mamba',
    mixer_rms_eps: 1e-6,
    use_falcon_mambapy: true,
  });
  const plain = new MambaConfig().toJSON();
  expect(plain).toMatchObject({ architectures: ['MambaForCausalLM'], model_type: 'mamba' });
  expect(plain).not.toHaveProperty('mixer_rms_eps');
});

test('several faults come in one error', () => {
  expect(() => MambaConfig.fromJSON({ expand: 0, state_size: -1 }, 'c')).toThrow(
    'c: model config: state_size is -1, expected a whole number from 1; expand is 0, expected a number above 0.',
  );
  expect(() => new MambaConfig({ hiddenSiez: 3 } as Partial<MambaConfigFields>)).toThrow(
    'hiddenSiez is no field of MambaConfig',
  );
  expect(() => MambaConfig.fromJSON([], 'c')).toThrow('c: expected a JSON object');
});

test('JSON round trip keeps every field and every unknown key', () => {
  const json = {
    hidden_size: 32,
    pad_token_id: null,
    eos_token_id: 5,
    use_mambapy: false,
    architectures: ['X'],
    note: { a: [1] },
  };
  const config = MambaConfig.fromJSON(json, 'x');
  const written = config.toJSON();
  expect(written).toMatchObject({ ...json, model_type: 'mamba', time_step_rank: 2, intermediate_size: 64 });
  expect(Object.keys(written)).toEqual(Object.keys(written).sort());
  expect(MambaConfig.fromJSON(JSON.parse(JSON.stringify(written)), 'x')).toEqual(config);
  expect(new MambaConfig().toJSON()).toMatchObject({ architectures: ['MambaForCausalLM'], model_type: 'mamba' });
});

test('with changes some fields', () => {
  const config = MambaConfig.fromJSON({ hidden_size: 32, note: 1 }, 'x').with({ tieWordEmbeddings: false });
  expect(config).toMatchObject({ hiddenSize: 32, tieWordEmbeddings: false, extra: { note: 1 } });
});
