// SPDX-License-Identifier: Apache-2.0
/** LoraConfig: peft's options as far as they are supported here, from and to adapter_config.json. */
import { ConfigError, nearestName } from '../src/errors.ts';

export type InitLoraWeights = boolean | 'gaussian';

export interface LoraConfigFields {
  /** Rank of the update. Default 8. */
  r: number;
  /** The update is scaled by loraAlpha / r, or loraAlpha / sqrt(r) with rslora. Default 8. */
  loraAlpha: number;
  /** Probability of zeroing an element of a linear adapter's input while training, in [0, 1). Default 0. */
  loraDropout: number;
  /**
   * Modules to adapt: names (the last part or more of the module's full name), or one regular expression that must match the whole
   * full name. Default x_proj, embeddings, in_proj, out_proj.
   */
  targetModules: readonly string[] | string;
  /** Scale by loraAlpha / sqrt(r) (Kalajdzievski 2023). Default false. */
  useRslora: boolean;
  /**
   * true (default): A uniform(±1/sqrt(in)), B zero, so that training starts at the base model (embeddings: A zero, B normal);
   * 'gaussian': A normal of deviation 1/r; false: A and B random, for tests.
   */
  initLoraWeights: InitLoraWeights;
  /** Which biases train. Default and only 'none'. */
  bias: 'none';
  /** Default 'CAUSAL_LM'. */
  taskType: 'CAUSAL_LM';
  /** The base model as the user named it. */
  baseModelNameOrPath: string | null;
}

const DEFAULTS: LoraConfigFields = {
  r: 8,
  loraAlpha: 8,
  loraDropout: 0,
  targetModules: ['x_proj', 'embeddings', 'in_proj', 'out_proj'],
  useRslora: false,
  initLoraWeights: true,
  bias: 'none',
  taskType: 'CAUSAL_LM',
  baseModelNameOrPath: null,
};

/** Keys of adapter_config.json that hold the fields. */
const JSON_KEYS: Record<keyof LoraConfigFields, string> = {
  r: 'r',
  loraAlpha: 'lora_alpha',
  loraDropout: 'lora_dropout',
  targetModules: 'target_modules',
  useRslora: 'use_rslora',
  initLoraWeights: 'init_lora_weights',
  bias: 'bias',
  taskType: 'task_type',
  baseModelNameOrPath: 'base_model_name_or_path',
};

/** Keys of peft that change what the adapter computes when they hold something else than this. */
const UNSUPPORTED: Record<string, unknown> = {
  alpha_pattern: {},
  exclude_modules: null,
  fan_in_fan_out: false,
  layer_replication: null,
  layers_pattern: null,
  layers_to_transform: null,
  lora_bias: false,
  modules_to_save: null,
  rank_pattern: {},
  target_parameters: null,
  trainable_token_indices: null,
  use_bdlora: null,
  use_dora: false,
  use_qalora: false,
  alora_invocation_tokens: null,
  arrow_config: null,
  kasa_config: null,
  monteclora_config: null,
  velora_config: null,
};

export class LoraConfig implements Readonly<LoraConfigFields> {
  declare readonly r: number;
  declare readonly loraAlpha: number;
  declare readonly loraDropout: number;
  declare readonly targetModules: readonly string[] | string;
  declare readonly useRslora: boolean;
  declare readonly initLoraWeights: InitLoraWeights;
  declare readonly bias: 'none';
  declare readonly taskType: 'CAUSAL_LM';
  declare readonly baseModelNameOrPath: string | null;

  /**
   * @param fields those that differ from the defaults
   * @throws ConfigError naming every field that is unknown or holds what it may not
   */
  constructor(fields: Partial<LoraConfigFields> = {}) {
    const unknown = Object.keys(fields).filter((name) => !Object.hasOwn(DEFAULTS, name));
    const values = {
      ...DEFAULTS,
      ...Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)),
    };
    const faults = [...unknown.map(unknownField), ...faultsOf(values)];
    if (faults.length > 0) throw new ConfigError(`LoraConfig: ${faults.join('; ')}.`);
    Object.assign(this, values);
  }

  /** The factor of the update. */
  get scaling(): number {
    return this.loraAlpha / (this.useRslora ? Math.sqrt(this.r) : this.r);
  }

  /**
   * The config in an adapter_config.json of peft.
   * @param where the file, for messages
   * @throws ConfigError when it is no LoRA, or uses options that are not supported, all named
   */
  static fromJSON(json: Readonly<Record<string, unknown>>, where: string): LoraConfig {
    if (json.peft_type !== 'LORA') {
      throw new ConfigError(
        `${where}: peft_type is ${JSON.stringify(json.peft_type)}, expected "LORA"; other adapter types are not supported.`,
      );
    }
    const unsupported = Object.entries(UNSUPPORTED)
      .filter(
        ([key, neutral]) =>
          json[key] !== undefined && json[key] !== null && JSON.stringify(json[key]) !== JSON.stringify(neutral),
      )
      .map(([key]) => `${key} = ${JSON.stringify(json[key])}`);
    if (unsupported.length > 0)
      throw new ConfigError(`${where}: options that are not supported: ${unsupported.join(', ')}.`);
    const given = Object.entries(JSON_KEYS)
      .map(([field, key]) => [field, json[key]] as const)
      .filter(([field, value]) => value !== undefined && (value !== null || field === 'baseModelNameOrPath'));
    try {
      return new LoraConfig({ ...Object.fromEntries(given), initLoraWeights: true } as Partial<LoraConfigFields>);
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      throw new ConfigError(`${where}: ${error.message}`);
    }
  }

  /** The object to write as adapter_config.json: the keys that every peft version reads. */
  toJSON(): Record<string, unknown> {
    return {
      alpha_pattern: {},
      auto_mapping: null,
      base_model_name_or_path: this.baseModelNameOrPath,
      bias: this.bias,
      fan_in_fan_out: false,
      inference_mode: true,
      init_lora_weights: this.initLoraWeights,
      layers_pattern: null,
      layers_to_transform: null,
      lora_alpha: this.loraAlpha,
      lora_dropout: this.loraDropout,
      modules_to_save: null,
      peft_type: 'LORA',
      r: this.r,
      rank_pattern: {},
      revision: null,
      target_modules: this.targetModules,
      task_type: this.taskType,
      use_dora: false,
      use_rslora: this.useRslora,
    };
  }

  /** A copy with some fields changed. */
  with(fields: Partial<LoraConfigFields>): LoraConfig {
    const own = Object.fromEntries(Object.keys(DEFAULTS).map((name) => [name, this[name as keyof LoraConfigFields]]));
    return new LoraConfig({ ...own, ...fields } as Partial<LoraConfigFields>);
  }
}

function unknownField(name: string): string {
  const near = nearestName(name, Object.keys(DEFAULTS));
  return `${name} is no supported option${near ? `; did you mean ${near}?` : ''}`;
}

function faultsOf(values: LoraConfigFields): string[] {
  const { r, loraAlpha, loraDropout, targetModules, initLoraWeights, bias, taskType } = values;
  const isNames =
    Array.isArray(targetModules) &&
    targetModules.length > 0 &&
    targetModules.every((name) => typeof name === 'string' && name);
  const checks: [boolean, string][] = [
    [Number.isInteger(r) && r >= 1, `r is ${r}, expected a whole number from 1`],
    [Number.isFinite(loraAlpha) && loraAlpha > 0, `loraAlpha is ${loraAlpha}, expected a number above 0`],
    [loraDropout >= 0 && loraDropout < 1, `loraDropout is ${loraDropout}, expected a probability from 0 to below 1`],
    [
      isNames || (typeof targetModules === 'string' && isRegex(targetModules)),
      'targetModules must be module names or one valid regular expression',
    ],
    [
      [true, false, 'gaussian'].includes(initLoraWeights),
      `initLoraWeights is ${JSON.stringify(initLoraWeights)}, expected true, false or 'gaussian'`,
    ],
    [bias === 'none', `bias is ${JSON.stringify(bias)}, expected 'none'`],
    [taskType === 'CAUSAL_LM', `taskType is ${JSON.stringify(taskType)}, expected 'CAUSAL_LM'`],
  ];
  return checks.flatMap(([holds, fault]) => (holds ? [] : [fault]));
}

function isRegex(pattern: string): boolean {
  try {
    new RegExp(pattern);
    return pattern.length > 0;
  } catch {
    return false;
  }
}
