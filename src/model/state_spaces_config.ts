// SPDX-License-Identifier: Apache-2.0
/** The original state-spaces config.json (mamba_ssm's MambaConfig and the ssm_cfg of its blocks) in Hugging Face's keys. */
import { ConfigError } from '../errors.ts';
import { isJsonObject } from '../json.ts';

/** The top-level keys of the original vocabulary; a config in both vocabularies repeats in them what others say. */
export const STATE_SPACES_KEYS: ReadonlySet<string> = new Set([
  'd_model',
  'd_inner',
  'd_intermediate',
  'n_layer',
  'ssm_cfg',
  'attn_layer_idx',
  'attn_cfg',
  'rms_norm',
  'fused_add_norm',
  'pad_vocab_size_multiple',
  'tie_embeddings',
]);

const SSM_KEYS: Readonly<Record<string, string>> = {
  d_state: 'state_size',
  d_conv: 'conv_kernel',
  expand: 'expand',
  dt_rank: 'time_step_rank',
  dt_min: 'time_step_min',
  dt_max: 'time_step_max',
  dt_init: 'time_step_init_scheme',
  dt_scale: 'time_step_scale',
  dt_init_floor: 'time_step_floor',
  conv_bias: 'use_conv_bias',
  bias: 'use_bias',
};

/** Keys of ssm_cfg that choose an implementation and not a model. */
const SSM_IMPLEMENTATION_KEYS: ReadonlySet<string> = new Set(['layer', 'use_fast_path']);

/**
 * The same model in Hugging Face's keys. The vocabulary is rounded up to pad_vocab_size_multiple, as the original does
 * when it makes the embedding.
 *
 * @throws ConfigError for models of another kind: LayerNorm, attention or MLP layers, Mamba-2 or Mamba-3 blocks
 */
export function fromStateSpaces(json: Record<string, unknown>): Record<string, unknown> {
  refuseOtherModels(json);
  const ssm = json.ssm_cfg ?? {};
  if (!isJsonObject(ssm)) throw new ConfigError(`ssm_cfg is ${JSON.stringify(ssm)}; expected an object.`);
  refuseOtherBlocks(ssm);

  const { vocab_size: vocabSize = 50277, pad_vocab_size_multiple: multiple = 8, ...rest } = json;
  if (!isSize(vocabSize))
    throw new ConfigError(`vocab_size is ${JSON.stringify(vocabSize)}; expected a whole number from 1.`);
  if (!isSize(multiple)) {
    throw new ConfigError(`pad_vocab_size_multiple is ${JSON.stringify(multiple)}; expected a whole number from 1.`);
  }
  const converted: Record<string, unknown> = {
    rescale_prenorm_residual: true,
    ...rest,
    vocab_size: Math.ceil(vocabSize / multiple) * multiple,
    hidden_size: json.d_model,
    num_hidden_layers: json.n_layer ?? 64,
    tie_word_embeddings: json.tie_embeddings ?? true,
  };
  for (const [key, name] of Object.entries(SSM_KEYS)) {
    if (ssm[key] !== undefined) converted[name] = ssm[key];
  }
  return converted;
}

function refuseOtherModels(json: Record<string, unknown>): void {
  if (json.rms_norm === false) {
    throw new ConfigError('rms_norm is false, so the model has LayerNorm layers; expected true (RMS norm).');
  }
  const attention = json.attn_layer_idx ?? [];
  if (!Array.isArray(attention) || attention.length > 0) {
    throw new ConfigError(
      `attn_layer_idx is ${JSON.stringify(attention)}, so the model has attention layers; expected none.`,
    );
  }
  const mlpSize = json.d_intermediate ?? 0;
  if (mlpSize !== 0) {
    throw new ConfigError(
      `d_intermediate is ${JSON.stringify(mlpSize)}, so the model has MLP layers; expected 0 (none).`,
    );
  }
}

function refuseOtherBlocks(ssm: Record<string, unknown>): void {
  const layer = ssm.layer ?? 'Mamba1';
  if (layer !== 'Mamba1') {
    throw new ConfigError(
      `ssm_cfg.layer is ${JSON.stringify(layer)}; expected "Mamba1" (this project runs Mamba-1 models).`,
    );
  }
  for (const key of Object.keys(ssm)) {
    if (!Object.hasOwn(SSM_KEYS, key) && !SSM_IMPLEMENTATION_KEYS.has(key)) {
      throw new ConfigError(`ssm_cfg.${key} is not known; expected ${Object.keys(SSM_KEYS).join(', ')}.`);
    }
  }
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 1;
}
