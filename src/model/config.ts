// SPDX-License-Identifier: Apache-2.0
/**
 * The shape of a Mamba model: config.json in Hugging Face's keys (transformers' MambaConfig and FalconMambaConfig) or in the original
 * state-spaces keys (d_model, n_layer, ssm_cfg), validated.
 */
import { ConfigError } from '../errors.ts';
import { isJsonObject } from '../json.ts';
import { fromStateSpaces, STATE_SPACES_KEYS } from './state_spaces_config.ts';

/** The fields, with transformers' meaning and defaults. */
export interface MambaConfigFields {
  /** 'mamba', or 'falcon_mamba', which normalises dt, B and C before the scan. */
  modelType: 'mamba' | 'falcon_mamba';
  /** Rows of the embedding, 50280. */
  vocabSize: number;
  /** d_model, 768. */
  hiddenSize: number;
  /** d_state, 16. */
  stateSize: number;
  /** n_layer, 32. */
  numHiddenLayers: number;
  /** Added to the mean square in every RMS norm, 1e-5. */
  layerNormEpsilon: number;
  /** 0. */
  padTokenId: number | null;
  /** 0. */
  bosTokenId: number | null;
  /** 0. */
  eosTokenId: number | null;
  /** d_inner / d_model, 2. */
  expand: number;
  /** d_conv, 4. */
  convKernel: number;
  /** Biases on in_proj and out_proj, false. */
  useBias: boolean;
  /** A bias on conv1d, true. */
  useConvBias: boolean;
  /** The activation of the convolution and of the gate: 'silu', the only one. */
  hiddenAct: string;
  /** Standard deviation of randomly initialised weights, 0.1. */
  initializerRange: number;
  /** true. The residual stream is float32 here in any case. */
  residualInFp32: boolean;
  /** dt_rank, ceil(hiddenSize / 16). */
  timeStepRank: number;
  /** Scale of dt_proj's random weights, 1. */
  timeStepScale: number;
  /** Smallest initial delta, 0.001. */
  timeStepMin: number;
  /** Largest initial delta, 0.1. */
  timeStepMax: number;
  /** How dt_proj's weights are drawn, 'random'. */
  timeStepInitScheme: 'random' | 'constant';
  /** Initial deltas are not below this, 1e-4. */
  timeStepFloor: number;
  /** Divide the random out_proj weights by sqrt(n_layer), false. */
  rescalePrenormResidual: boolean;
  /** Keep the state when generating, true. */
  useCache: boolean;
  /** The head is the embedding matrix, true. */
  tieWordEmbeddings: boolean;
  /** d_inner, floor(expand * hiddenSize); wins over expand. */
  intermediateSize: number;
  /** Added to the mean square in falcon_mamba's norms of dt, B and C, 1e-6; without meaning for mamba. */
  mixerRmsEps: number;
}

type FieldKind = 'type' | 'size' | 'positive' | 'number' | 'flag' | 'token' | 'rank' | 'activation' | 'scheme';
type FieldName = keyof MambaConfigFields;

/** Key in config.json, what it may hold, and its default (derived ones have none here). */
const FIELDS: {
  readonly [Name in FieldName]: readonly [key: string, kind: FieldKind, fallback?: MambaConfigFields[Name]];
} = {
  modelType: ['model_type', 'type', 'mamba'],
  vocabSize: ['vocab_size', 'size', 50280],
  hiddenSize: ['hidden_size', 'size', 768],
  stateSize: ['state_size', 'size', 16],
  numHiddenLayers: ['num_hidden_layers', 'size', 32],
  layerNormEpsilon: ['layer_norm_epsilon', 'positive', 1e-5],
  padTokenId: ['pad_token_id', 'token', 0],
  bosTokenId: ['bos_token_id', 'token', 0],
  eosTokenId: ['eos_token_id', 'token', 0],
  expand: ['expand', 'positive', 2],
  convKernel: ['conv_kernel', 'size', 4],
  useBias: ['use_bias', 'flag', false],
  useConvBias: ['use_conv_bias', 'flag', true],
  hiddenAct: ['hidden_act', 'activation', 'silu'],
  initializerRange: ['initializer_range', 'positive', 0.1],
  residualInFp32: ['residual_in_fp32', 'flag', true],
  timeStepRank: ['time_step_rank', 'rank'],
  timeStepScale: ['time_step_scale', 'positive', 1],
  timeStepMin: ['time_step_min', 'positive', 0.001],
  timeStepMax: ['time_step_max', 'positive', 0.1],
  timeStepInitScheme: ['time_step_init_scheme', 'scheme', 'random'],
  timeStepFloor: ['time_step_floor', 'number', 1e-4],
  rescalePrenormResidual: ['rescale_prenorm_residual', 'flag', false],
  useCache: ['use_cache', 'flag', true],
  tieWordEmbeddings: ['tie_word_embeddings', 'flag', true],
  intermediateSize: ['intermediate_size', 'size'],
  mixerRmsEps: ['mixer_rms_eps', 'positive', 1e-6],
};

const EXPECTED: Readonly<Record<FieldKind, string>> = {
  type: '"mamba" or "falcon_mamba" (this project runs Mamba-1 models)',
  size: 'a whole number from 1',
  positive: 'a number above 0',
  number: 'a number from 0',
  flag: 'true or false',
  token: 'a token id (a whole number from 0) or null',
  rank: 'a whole number from 1 or "auto"',
  activation: '"silu" (other activations are not supported)',
  scheme: '"random" or "constant"',
};

const FIELD_NAMES = Object.keys(FIELDS) as FieldName[];

export class MambaConfig implements Readonly<MambaConfigFields> {
  declare readonly modelType: 'mamba' | 'falcon_mamba';
  declare readonly vocabSize: number;
  declare readonly hiddenSize: number;
  declare readonly stateSize: number;
  declare readonly numHiddenLayers: number;
  declare readonly layerNormEpsilon: number;
  declare readonly padTokenId: number | null;
  declare readonly bosTokenId: number | null;
  declare readonly eosTokenId: number | null;
  declare readonly expand: number;
  declare readonly convKernel: number;
  declare readonly useBias: boolean;
  declare readonly useConvBias: boolean;
  declare readonly hiddenAct: string;
  declare readonly initializerRange: number;
  declare readonly residualInFp32: boolean;
  declare readonly timeStepRank: number;
  declare readonly timeStepScale: number;
  declare readonly timeStepMin: number;
  declare readonly timeStepMax: number;
  declare readonly timeStepInitScheme: 'random' | 'constant';
  declare readonly timeStepFloor: number;
  declare readonly rescalePrenormResidual: boolean;
  declare readonly useCache: boolean;
  declare readonly tieWordEmbeddings: boolean;
  declare readonly intermediateSize: number;
  declare readonly mixerRmsEps: number;
  /** Keys of config.json that are not fields; `toJSON` writes them back. */
  readonly extra: Readonly<Record<string, unknown>>;

  /**
   * @param fields those that differ from transformers' defaults
   * @throws ConfigError naming every key whose value is not what it may be
   */
  constructor(fields: Partial<MambaConfigFields> = {}, extra: Readonly<Record<string, unknown>> = {}) {
    const faults: string[] = [];
    for (const name of Object.keys(fields)) {
      if (!Object.hasOwn(FIELDS, name)) faults.push(`${name} is no field of MambaConfig`);
    }
    const given = new Map(Object.entries(fields).filter(([, value]) => value !== undefined));
    const values = FIELD_NAMES.map((name) => [name, given.get(name) ?? defaultOf(name, given)] as const);
    for (const [name, value] of values) {
      const [key, kind, fallback] = FIELDS[name];
      const isDerived = fallback === undefined && !given.has(name);
      if (isDerived && faults.length > 0) continue;
      if (!isAllowed(kind, value)) faults.push(`${key} is ${JSON.stringify(value)}, expected ${EXPECTED[kind]}`);
    }
    if (faults.length > 0) throw new ConfigError(`model config: ${faults.join('; ')}.`);
    Object.assign(this, Object.fromEntries(values));
    this.extra = extra;
  }

  /**
   * A config from the object in a config.json, in Hugging Face's keys, the original state-spaces keys, or both (then
   * Hugging Face's count). Missing keys take the defaults.
   *
   * @param where the file, for messages
   * @throws ConfigError when the model is no Mamba of this kind, or a value is not what its key may hold
   */
  static fromJSON(json: unknown, where: string): MambaConfig {
    if (!isJsonObject(json)) throw new ConfigError(`${where}: expected a JSON object with a model's configuration.`);
    try {
      const isOriginal = json.hidden_size === undefined && json.d_model !== undefined;
      return isOriginal ? fromHuggingFace(fromStateSpaces(json)) : fromHuggingFace(json);
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      throw new ConfigError(`${where}: ${error.message}`);
    }
  }

  /** The object to write as config.json: Hugging Face's keys, sorted, and the keys that were not fields. */
  toJSON(): Record<string, unknown> {
    const isFalcon = this.modelType === 'falcon_mamba';
    const architectures = [isFalcon ? 'FalconMambaForCausalLM' : 'MambaForCausalLM'];
    const json: Record<string, unknown> = { architectures, ...this.extra };
    for (const name of FIELD_NAMES) if (isFalcon || name !== 'mixerRmsEps') json[FIELDS[name][0]] = this[name];
    return Object.fromEntries(Object.entries(json).sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  /** A copy with some fields changed. */
  with(fields: Partial<MambaConfigFields>): MambaConfig {
    const own = Object.fromEntries(FIELD_NAMES.map((name) => [name, this[name]])) as unknown as MambaConfigFields;
    return new MambaConfig({ ...own, ...fields }, this.extra);
  }
}

function fromHuggingFace(json: Record<string, unknown>): MambaConfig {
  const fields: Partial<Record<FieldName, unknown>> = {};
  const extra = new Map(Object.entries(json).filter(([key]) => !STATE_SPACES_KEYS.has(key)));
  for (const name of FIELD_NAMES) {
    const [key] = FIELDS[name];
    // A null id means "none", a null elsewhere means "not given".
    const value = json[key] === null && FIELDS[name][1] !== 'token' ? undefined : json[key];
    extra.delete(key);
    if (value !== undefined && !(name === 'timeStepRank' && value === 'auto')) fields[name] = value;
  }
  // The constructor checks every value.
  return new MambaConfig(fields as Partial<MambaConfigFields>, Object.fromEntries(extra));
}

function defaultOf(name: FieldName, given: ReadonlyMap<string, unknown>): unknown {
  if (given.has(name)) return given.get(name);
  const number = (field: 'hiddenSize' | 'expand') => Number(given.get(field) ?? FIELDS[field][2]);
  if (name === 'timeStepRank') return Math.ceil(number('hiddenSize') / 16);
  if (name === 'intermediateSize') return Math.floor(number('expand') * number('hiddenSize'));
  return FIELDS[name][2];
}

function isAllowed(kind: FieldKind, value: unknown): boolean {
  switch (kind) {
    case 'type':
      return value === 'mamba' || value === 'falcon_mamba';
    case 'size':
    case 'rank':
      return Number.isSafeInteger(value) && (value as number) >= 1;
    case 'token':
      return value === null || (Number.isSafeInteger(value) && (value as number) >= 0);
    case 'positive':
      return typeof value === 'number' && Number.isFinite(value) && value > 0;
    case 'number':
      return typeof value === 'number' && Number.isFinite(value) && value >= 0;
    case 'flag':
      return typeof value === 'boolean';
    case 'activation':
      return value === 'silu';
    case 'scheme':
      return value === 'random' || value === 'constant';
  }
}
