// SPDX-License-Identifier: Apache-2.0
/** Which modules a LoraConfig targets, and the adapter tensors that they get. */
import { ConfigError } from '../src/errors.ts';
import type { Module } from '../src/model/modules.ts';
import type { LoraConfig } from './lora_config.ts';

/** What tells a module from the others, and the shape of its weight; of a loaded model or of one that is only described. */
export type ModuleShape = Pick<Module, 'kind' | 'name'> & { readonly weight: { readonly shape: number[] } };

/**
 * The modules that a config targets, in the model's order.
 * @throws ConfigError when a name or the expression matches no module
 */
export function targetedModules<M extends ModuleShape>(
  model: { readonly modules: ReadonlyMap<string, M> },
  config: LoraConfig,
): M[] {
  const modules = [...model.modules.values()];
  const { targetModules } = config;
  const exists = () => [...new Set(modules.map((module) => module.name.split('.').at(-1)))].join(', ');
  if (typeof targetModules === 'string') {
    const pattern = new RegExp(`^(?:${targetModules})$`);
    const matched = modules.filter((module) => pattern.test(module.name));
    if (matched.length > 0) return matched;
    const example = modules[1]?.name ?? modules[0]?.name;
    throw new ConfigError(
      `target_modules: the expression ${targetModules} matches no module; the modules are ${exists()} (such as ${example}).`,
    );
  }
  const matches = (module: M, target: string) => module.name === target || module.name.endsWith(`.${target}`);
  const idle = targetModules.filter((target) => !modules.some((module) => matches(module, target)));
  if (idle.length > 0)
    throw new ConfigError(`target_modules: ${idle.join(', ')} matches no module; the modules are ${exists()}.`);
  return modules.filter((module) => targetModules.some((target) => matches(module, target)));
}

/** Shapes of a module's adapter tensors under peft's names. */
export function adapterShapes(module: ModuleShape, r: number): [key: string, shape: [number, number]][] {
  const [rows, columns] = module.weight.shape as [number, number];
  const prefix = `base_model.model.${module.name}`;
  return module.kind === 'embedding'
    ? [
        [`${prefix}.lora_embedding_A`, [r, rows]],
        [`${prefix}.lora_embedding_B`, [columns, r]],
      ]
    : [
        [`${prefix}.lora_A.weight`, [r, columns]],
        [`${prefix}.lora_B.weight`, [rows, r]],
      ];
}
