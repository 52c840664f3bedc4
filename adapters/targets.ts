// SPDX-License-Identifier: Apache-2.0
/** Which modules a LoraConfig targets, and the adapter tensors that they get. */
import { ConfigError } from '../src/errors.ts';
import { adapterKeys, type Module, matrixShape } from '../src/model/modules.ts';
import type { LoraConfig } from './lora_config.ts';
import { isNamedBy, isPathEnd, layerOf, matchesPathEnd } from './module_names.ts';

/** What tells a module from the others, and the shape of its weight; of a loaded model or of one that is only described. */
export type ModuleShape = Pick<Module, 'kind' | 'name'> & { readonly weight: { readonly shape: number[] } };

/** The modules of a model, by name. */
export type Modules<M extends ModuleShape = ModuleShape> = ReadonlyMap<string, M>;

/**
 * The modules that a config targets, in the model's order.
 * @throws ConfigError when a name or the expression matches no module, or all that match are excluded
 */
export function targetedModules<M extends ModuleShape>(
  model: { readonly modules: Modules<M> },
  config: LoraConfig,
): M[] {
  const modules = [...model.modules.values()];
  const found =
    typeof config.targetModules === 'string' ? byExpression(modules, config.targetModules) : byNames(modules, config);
  const { excludeModules } = config;
  const targeted = excludeModules === null ? found : found.filter(({ name }) => !isNamedBy(excludeModules, name));
  if (targeted.length > 0) return targeted;
  throw new ConfigError(`exclude_modules: ${show(excludeModules)} excludes every module that target_modules names.`);
}

/**
 * Checks what only someone who writes a config needs to be told: names in it that choose nothing.
 * @throws ConfigError naming each, with what exists
 */
export function checkNamesChoose(model: { readonly modules: Modules }, config: LoraConfig): void {
  const modules = [...model.modules.values()];
  const targeted = targetedModules(model, config).map(({ name }) => name);
  const { excludeModules, rankPattern, alphaPattern } = config;
  const faults: string[] = [];
  const excludes =
    excludeModules === null ? [] : typeof excludeModules === 'string' ? [excludeModules] : excludeModules;
  for (const exclude of excludes) {
    const named = typeof excludeModules === 'string' ? exclude : [exclude];
    if (!modules.some(({ name }) => isNamedBy(named, name)))
      faults.push(`exclude_modules: ${exclude} matches no module; ${whatExists(modules)}`);
  }
  for (const [option, pattern] of Object.entries({ rank_pattern: rankPattern, alpha_pattern: alphaPattern })) {
    for (const key of Object.keys(pattern)) {
      if (!targeted.some((name) => matchesPathEnd(key, name)))
        faults.push(`${option}: ${key} matches no adapted module; adapted are ${targeted.join(', ')}`);
    }
  }
  if (faults.length > 0) throw new ConfigError(`${faults.join('.\n')}.`);
}

function byExpression<M extends ModuleShape>(modules: readonly M[], expression: string): M[] {
  if (expression.toLowerCase() === 'all-linear') return modules.filter(({ kind }) => kind === 'linear');
  const matched = modules.filter(({ name }) => isNamedBy(expression, name));
  if (matched.length > 0) return matched;
  const example = modules[1]?.name ?? modules[0]?.name;
  throw new ConfigError(
    `target_modules: the expression ${expression} matches no module; ${whatExists(modules)} (such as ${example}).`,
  );
}

function byNames<M extends ModuleShape>(modules: readonly M[], config: LoraConfig): M[] {
  const targets = config.targetModules as readonly string[];
  const idle = targets.filter((target) => !modules.some(({ name }) => isPathEnd(target, name)));
  if (idle.length > 0)
    throw new ConfigError(`target_modules: ${idle.join(', ')} matches no module; ${whatExists(modules)}.`);
  const { layersToTransform, layersPattern } = config;
  if (layersToTransform === null) return modules.filter(({ name }) => isNamedBy(targets, name));

  const layers = [layersToTransform].flat();
  const isIn = (name: string) => layers.includes(layerOf(name, layersPattern) ?? -1);
  const all = [...new Set(modules.flatMap(({ name }) => layerOf(name, layersPattern) ?? []))];
  const missing = layers.filter((layer) => !all.includes(layer));
  if (all.length === 0)
    throw new ConfigError(`layers_pattern: ${show(layersPattern)} matches no list of layers; Mamba's is layers.`);
  if (missing.length > 0)
    throw new ConfigError(
      `layers_to_transform: there is no layer ${missing.join(', ')}; the model has layers 0 to ${Math.max(...all)}.`,
    );
  const outside = targets.filter(
    (target) => !modules.some(({ name }) => name === target || (isPathEnd(target, name) && isIn(name))),
  );
  if (outside.length > 0)
    throw new ConfigError(
      `target_modules: ${outside.join(', ')} lies outside the layers that layers_to_transform chooses; leave it out, or give its full name (such as ${modules[0]?.name}).`,
    );
  return modules.filter(({ name }) => targets.includes(name) || (isNamedBy(targets, name) && isIn(name)));
}

function whatExists(modules: readonly ModuleShape[]): string {
  return `the modules are ${[...new Set(modules.map(({ name }) => name.split('.').at(-1)))].join(', ')}`;
}

function show(names: readonly string[] | string | null): string {
  return [names].flat().join(', ');
}

/** Shapes of a module's adapter tensors under peft's names. */
export function adapterShapes(module: ModuleShape, config: LoraConfig): [key: string, shape: number[]][] {
  const [rows, columns] = matrixShape(module.weight.shape);
  const [inputs, outputs] = module.kind === 'embedding' ? [rows, columns] : [columns, rows];
  const r = config.rankOf(module.name);
  const keys = adapterKeys(module);
  const shapes: [string, number[]][] = [
    [keys.A, [r, inputs]],
    [keys.B, [outputs, r]],
  ];
  if (config.loraBias) shapes.push([keys.bias, [outputs]]);
  if (config.useDora) shapes.push([keys.magnitude, [outputs]]);
  return shapes;
}
