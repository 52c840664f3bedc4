// SPDX-License-Identifier: Apache-2.0
/** LoraConfig: peft's options as far as they are supported here, from and to adapter_config.json. */
import { REFUSED_LORA_OPTIONS } from '../src/config/refused_lora_options.ts';
import { ConfigError } from '../src/errors.ts';
import { faultsOf, unknownOption } from './lora_config_checks.ts';
import { matchesPathEnd } from './module_names.ts';

export type InitLoraWeights = boolean | 'gaussian' | 'pissa' | 'olora' | 'orthogonal';

export interface LoraConfigFields {
  /** Rank of the update. Default 8. */
  r: number;
  /** The update is scaled by loraAlpha / r, or loraAlpha / sqrt(r) with rslora. Default 8. */
  loraAlpha: number;
  /** Probability of zeroing an element of a linear adapter's input while training, in [0, 1). Default 0. */
  loraDropout: number;
  /**
   * Modules to adapt: names (the last part or more of the module's full name), one regular expression that must match the whole full
   * name, or all-linear: every projection. Default x_proj, embeddings, in_proj, out_proj.
   */
  targetModules: readonly string[] | string;
  /** Modules not to adapt, named as in targetModules. Default none. */
  excludeModules: readonly string[] | string | null;
  /** Adapt these layers alone; a module that targetModules names by its full name is adapted anyway. Default all. */
  layersToTransform: readonly number[] | number | null;
  /** Names of the lists whose indices layersToTransform means. Default any. */
  layersPattern: readonly string[] | string | null;
  /** Ranks by module name, or regular expression for the end of a full name; the first that matches counts. Default {}. */
  rankPattern: Readonly<Record<string, number>>;
  /** Values of loraAlpha, likewise. Default {}. */
  alphaPattern: Readonly<Record<string, number>>;
  /** Which base biases train: none, every one, or those of the adapted modules. Default 'none'. */
  bias: 'none' | 'all' | 'lora_only';
  /** Whether lora_B has a bias, which is scaled as the update is. Default false. */
  loraBias: boolean;
  /** Modules and parameters, by the end of their names, that train whole and are stored in the adapter. Default none. */
  modulesToSave: readonly string[] | null;
  /**
   * Ids of tokens whose rows of the embeddings train, in the place of the base's; a tied head has them too. A list, or an object with
   * the list at the name of the embeddings. Default none.
   */
  trainableTokenIndices: readonly number[] | Readonly<Record<string, readonly number[]>> | null;
  /** Scale by loraAlpha / sqrt(r) (Kalajdzievski 2023). Default false. */
  useRslora: boolean;
  /**
   * Weight-decomposed LoRA (Liu et al. 2024): the merged weight's vectors, one an output, are scaled to a magnitude that trains.
   * Default false.
   */
  useDora: boolean;
  /**
   * true (default): A uniform(±1/sqrt(in)), B zero, so that training starts at the base model (embeddings: A zero, B normal);
   * 'gaussian': A normal of deviation 1/r; 'pissa', 'olora': A and B are the principal part of the weight, which the weight is then
   * without (PiSSA: its largest singular values, OLoRA: the first columns of its QR decomposition); 'orthogonal': A and B random with
   * B A = 0; false: A and B random, for tests. The embeddings begin as with true, but for false.
   */
  initLoraWeights: InitLoraWeights;
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
  excludeModules: null,
  layersToTransform: null,
  layersPattern: null,
  rankPattern: {},
  alphaPattern: {},
  bias: 'none',
  loraBias: false,
  modulesToSave: null,
  trainableTokenIndices: null,
  useRslora: false,
  useDora: false,
  initLoraWeights: true,
  taskType: 'CAUSAL_LM',
  baseModelNameOrPath: null,
};

const FIELDS = Object.keys(DEFAULTS) as (keyof LoraConfigFields)[];

/** Keys that older versions of peft do not know: written only when they say something. */
const NEWER_KEYS = ['exclude_modules', 'lora_bias', 'trainable_token_indices'];

export class LoraConfig implements Readonly<LoraConfigFields> {
  declare readonly r: number;
  declare readonly loraAlpha: number;
  declare readonly loraDropout: number;
  declare readonly targetModules: readonly string[] | string;
  declare readonly excludeModules: readonly string[] | string | null;
  declare readonly layersToTransform: readonly number[] | number | null;
  declare readonly layersPattern: readonly string[] | string | null;
  declare readonly rankPattern: Readonly<Record<string, number>>;
  declare readonly alphaPattern: Readonly<Record<string, number>>;
  declare readonly bias: LoraConfigFields['bias'];
  declare readonly loraBias: boolean;
  declare readonly modulesToSave: readonly string[] | null;
  declare readonly trainableTokenIndices: LoraConfigFields['trainableTokenIndices'];
  declare readonly useRslora: boolean;
  declare readonly useDora: boolean;
  declare readonly initLoraWeights: InitLoraWeights;
  declare readonly taskType: 'CAUSAL_LM';
  declare readonly baseModelNameOrPath: string | null;

  /**
   * @param fields those that differ from the defaults
   * @throws ConfigError naming every field that is unknown, refused, contradicts another, or holds what it may not
   */
  constructor(fields: Partial<LoraConfigFields> = {}) {
    const unknown = Object.keys(fields).filter((name) => !Object.hasOwn(DEFAULTS, name));
    const values = {
      ...DEFAULTS,
      ...Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)),
    };
    const faults = [...unknown.map((name) => unknownOption(name, FIELDS)), ...faultsOf(values)];
    if (faults.length > 0) throw new ConfigError(`LoraConfig: ${faults.join('; ')}.`);
    Object.assign(this, values);
  }

  /** The rank of a module's update. @param moduleName in full */
  rankOf(moduleName: string): number {
    return numberFor(this.rankPattern, moduleName) ?? this.r;
  }

  /** The factor of a module's update. @param moduleName in full */
  scalingOf(moduleName: string): number {
    const alpha = numberFor(this.alphaPattern, moduleName) ?? this.loraAlpha;
    const rank = this.rankOf(moduleName);
    return alpha / (this.useRslora ? Math.sqrt(rank) : rank);
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
    const refused = refusedIn(json);
    if (refused.length > 0) throw new ConfigError(`${where}: options that are not supported: ${refused.join('; ')}.`);
    const initLoraWeights = storedInit(json.init_lora_weights, where);
    const given = FIELDS.map((field) => [field, json[snakeCase(field)]] as const).filter(
      ([field, value]) => value !== undefined && (value !== null || DEFAULTS[field] === null),
    );
    try {
      return new LoraConfig({ ...Object.fromEntries(given), initLoraWeights } as Partial<LoraConfigFields>);
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      throw new ConfigError(`${where}: ${error.message}`);
    }
  }

  /** The object to write as adapter_config.json: the keys that every peft version reads, and newer ones that are used. */
  toJSON(): Record<string, unknown> {
    const own = Object.fromEntries(FIELDS.map((field) => [snakeCase(field), this[field]]));
    for (const key of NEWER_KEYS) if (!own[key]) delete own[key];
    const fixed = {
      auto_mapping: null,
      fan_in_fan_out: false,
      inference_mode: true,
      peft_type: 'LORA',
      revision: null,
    };
    return Object.fromEntries(Object.entries({ ...own, ...fixed }).sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  /** A copy with some fields changed. */
  with(fields: Partial<LoraConfigFields>): LoraConfig {
    const own = Object.fromEntries(FIELDS.map((name) => [name, this[name]]));
    return new LoraConfig({ ...own, ...fields } as Partial<LoraConfigFields>);
  }
}

/** A field's name in adapter_config.json and in configs. */
export function snakeCase(field: string): string {
  return field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

function numberFor(pattern: Readonly<Record<string, number>>, moduleName: string): number | undefined {
  return Object.entries(pattern).find(([key]) => matchesPathEnd(key, moduleName))?.[1];
}

/**
 * What first values mean for a stored adapter: nothing but where they changed the base weights.
 * @throws ConfigError when the change cannot be made again
 */
function storedInit(init: unknown, where: string): true | 'pissa' | 'olora' {
  if (init === 'pissa' || init === 'olora') return init;
  const isUnrepeatable =
    ['corda', 'loftq', 'lora_ga'].includes(init as string) || String(init).startsWith('pissa_niter');
  if (!isUnrepeatable) return true;
  throw new ConfigError(
    `${where}: init_lora_weights is ${JSON.stringify(init)}: the adapter belongs to changed base weights that its files do not give. In peft, save it as a plain one (save_pretrained with path_initial_model_for_weight_conversion).`,
  );
}

function refusedIn(json: Readonly<Record<string, unknown>>): string[] {
  return Object.entries(REFUSED_LORA_OPTIONS)
    .filter(([key, { neutral }]) => {
      const value = json[key] ?? null;
      return value !== null && JSON.stringify(value) !== JSON.stringify(neutral);
    })
    .map(([key, { reason }]) => `${key} = ${JSON.stringify(json[key])} (${reason})`);
}
