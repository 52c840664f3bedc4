// SPDX-License-Identifier: Apache-2.0
/** The options of peft's LoraConfig that are not supported, each with the value that asks for nothing and the reason. */

export interface RefusedOption {
  /** What peft writes when the option is not used; null counts as that too. */
  neutral: unknown;
  reason: string;
}

const NOT_HERE = 'another method than LoRA with dense float32 weights';
const DATA_DRIVEN = 'first values that are computed from a data set or from gradients are not supported';

export const REFUSED_LORA_OPTIONS: Readonly<Record<string, RefusedOption>> = {
  alora_invocation_tokens: {
    neutral: null,
    reason: 'a recurrent state has no place from which on the adapter could begin to count',
  },
  arrow_config: { neutral: null, reason: 'adapters are not routed by token' },
  corda_config: { neutral: null, reason: DATA_DRIVEN },
  ensure_weight_tying: {
    neutral: false,
    reason: 'an adapter of the embeddings leaves a tied head as it is; merging unties it',
  },
  eva_config: { neutral: null, reason: DATA_DRIVEN },
  fan_in_fan_out: { neutral: false, reason: 'the weights of Mamba are [out, in]' },
  kasa_config: { neutral: null, reason: NOT_HERE },
  layer_replication: { neutral: null, reason: 'a model has the layers of its checkpoint' },
  loftq_config: { neutral: {}, reason: 'the base model is not quantized' },
  lora_ga_config: { neutral: null, reason: DATA_DRIVEN },
  megatron_config: { neutral: null, reason: 'one process trains on one device' },
  monteclora_config: { neutral: null, reason: NOT_HERE },
  target_parameters: {
    neutral: null,
    reason: 'all that can be adapted has a name for target_modules; other parameters train through modules_to_save',
  },
  use_bdlora: { neutral: null, reason: NOT_HERE },
  use_qalora: { neutral: false, reason: 'the base model is not quantized' },
  velora_config: { neutral: null, reason: NOT_HERE },
};
