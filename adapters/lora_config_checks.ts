// SPDX-License-Identifier: Apache-2.0
/** What may stand in the fields of a LoraConfig, and which of them contradict one another. */
import { REFUSED_LORA_OPTIONS } from '../src/config/refused_lora_options.ts';
import { nearestName } from '../src/errors.ts';
import type { LoraConfigFields } from './lora_config.ts';

/** What to say of an option that is no field. @param known the fields */
export function unknownOption(name: string, known: readonly string[]): string {
  const key = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  const refused = REFUSED_LORA_OPTIONS[key];
  if (refused) return `${name} is not supported: ${refused.reason}`;
  const near = nearestName(name, known);
  return `${name} is no supported option${near ? `; did you mean ${near}?` : ''}`;
}

/** What is wrong with a config's fields; empty when nothing is. */
export function faultsOf(values: LoraConfigFields): string[] {
  const checks = [...fieldChecks(values), ...contradictions(values)];
  return checks.flatMap(([holds, fault]) => (holds ? [] : [fault]));
}

type Check = [holds: boolean, fault: string];

function fieldChecks(values: LoraConfigFields): Check[] {
  const { r, loraAlpha, loraDropout, targetModules, excludeModules, layersToTransform, layersPattern } = values;
  const { rankPattern, alphaPattern, bias, modulesToSave, initLoraWeights, taskType } = values;
  const layers = layersToTransform === null ? [] : [layersToTransform].flat();
  const flags = ['loraBias', 'useRslora', 'useDora'] as const;
  return [
    [isRank(r), `r is ${r}, expected a whole number from 1`],
    [isAlpha(loraAlpha), `loraAlpha is ${loraAlpha}, expected a number above 0`],
    [loraDropout >= 0 && loraDropout < 1, `loraDropout is ${loraDropout}, expected a probability from 0 to below 1`],
    [
      areNames(targetModules) || isRegex(targetModules),
      'targetModules must be module names or one valid regular expression',
    ],
    [
      excludeModules === null || areNames(excludeModules) || isRegex(excludeModules),
      'excludeModules must be module names or one valid regular expression',
    ],
    [
      layersToTransform === null ||
        (layers.length > 0 && layers.every((layer) => Number.isInteger(layer) && layer >= 0)),
      `layersToTransform is ${JSON.stringify(layersToTransform)}, expected whole numbers from 0`,
    ],
    [
      layersPattern === null || (areNames([layersPattern].flat()) && [layersPattern].flat().every(isRegex)),
      'layersPattern must be names of the list of layers',
    ],
    ...patternChecks('rankPattern', rankPattern, isRank, 'a whole number from 1'),
    ...patternChecks('alphaPattern', alphaPattern, isAlpha, 'a number above 0'),
    [
      ['none', 'all', 'lora_only'].includes(bias),
      `bias is ${JSON.stringify(bias)}, expected 'none', 'all' or 'lora_only'`,
    ],
    [modulesToSave === null || areNames(modulesToSave), 'modulesToSave must be names of modules or parameters'],
    ...tokenChecks(values.trainableTokenIndices),
    ...flags.map(
      (flag): Check => [typeof values[flag] === 'boolean', `${flag} is ${values[flag]}, expected true or false`],
    ),
    [
      [true, false, 'gaussian', 'pissa', 'olora', 'orthogonal'].includes(initLoraWeights),
      `initLoraWeights is ${JSON.stringify(initLoraWeights)}, expected true, false, 'gaussian', 'pissa', 'olora' or 'orthogonal'`,
    ],
    [taskType === 'CAUSAL_LM', `taskType is ${JSON.stringify(taskType)}, expected 'CAUSAL_LM'`],
  ];
}

function patternChecks(
  field: string,
  pattern: Readonly<Record<string, number>>,
  isValue: (value: unknown) => boolean,
  expected: string,
): Check[] {
  if (typeof pattern !== 'object' || pattern === null || Array.isArray(pattern))
    return [[false, `${field} must be an object of module names and numbers`]];
  return Object.entries(pattern).flatMap(([key, value]): Check[] => [
    [isRegex(key), `${field}: ${JSON.stringify(key)} is neither a module name nor a valid regular expression`],
    [isValue(value), `${field}: ${JSON.stringify(key)} is ${value}, expected ${expected}`],
  ]);
}

function tokenChecks(given: LoraConfigFields['trainableTokenIndices']): Check[] {
  const lists = given === null ? [] : Array.isArray(given) ? [given] : Object.values(given as object);
  const areIds = (ids: unknown): ids is number[] =>
    Array.isArray(ids) && ids.length > 0 && ids.every((id) => Number.isInteger(id) && id >= 0);
  const isFilled = given === null || (typeof given === 'object' && lists.length > 0 && lists.every(areIds));
  if (!isFilled)
    return [[false, 'trainableTokenIndices must be ids of tokens, at least one, or an object with them at embeddings']];
  const twice = lists.flatMap((ids: number[]) => ids.filter((id, i) => ids.indexOf(id) !== i));
  return [[twice.length === 0, `trainableTokenIndices has ${[...new Set(twice)].join(', ')} more than once`]];
}

function contradictions(values: LoraConfigFields): Check[] {
  const { targetModules, layersToTransform, layersPattern, loraBias, useDora, initLoraWeights } = values;
  const layerFields = [layersToTransform !== null && 'layersToTransform', layersPattern !== null && 'layersPattern'];
  const given = layerFields.filter((field) => field !== false);
  return [
    [
      typeof targetModules !== 'string' || given.length === 0,
      `${given.join(' and ')} needs targetModules as a list of names; an expression can say the layers itself`,
    ],
    [
      layersPattern === null || layersToTransform !== null,
      'layersPattern says what layersToTransform counts, and that is not given',
    ],
    [!(loraBias && useDora), 'loraBias and useDora exclude each other'],
    [
      !loraBias || typeof initLoraWeights === 'boolean',
      `loraBias needs initLoraWeights true or false, and it is ${JSON.stringify(initLoraWeights)}`,
    ],
  ];
}

function isRank(value: unknown): boolean {
  return Number.isInteger(value) && (value as number) >= 1;
}

function isAlpha(value: unknown): boolean {
  return Number.isFinite(value) && (value as number) > 0;
}

function areNames(value: unknown): boolean {
  return Array.isArray(value) && value.length > 0 && value.every((name) => typeof name === 'string' && name !== '');
}

function isRegex(pattern: unknown): boolean {
  if (typeof pattern !== 'string' || pattern === '') return false;
  try {
    new RegExp(pattern);
    return true;
  } catch {
    return false;
  }
}
