// SPDX-License-Identifier: Apache-2.0
/** The base parameters that train with an adapter and are stored in it: modules_to_save and bias of peft's LoraConfig. */
import { ConfigError } from '../src/errors.ts';
import type { LoraConfig } from './lora_config.ts';
import { isPathEnd } from './module_names.ts';
import { type Modules, targetedModules } from './targets.ts';

/** What is to be known of a model. */
export interface SavableModel {
  readonly modules: Modules;
  /** Base parameters by checkpoint name. */
  readonly parameters: ReadonlyMap<string, { readonly shape: number[] }>;
}

export interface SavedParameter {
  /** By checkpoint name. */
  name: string;
  /** In adapter_model.safetensors, as peft writes it. */
  key: string;
  shape: number[];
}

const HEAD = 'lm_head.weight';
const EMBEDDINGS = 'backbone.embeddings.weight';

/**
 * The base parameters that a config has train, in the model's order.
 * @throws ConfigError when a name of modules_to_save matches nothing (it lists what exists), or an adapted module
 */
export function savedParameters(model: SavableModel, config: LoraConfig): SavedParameter[] {
  const targeted = new Set(targetedModules(model, config).map(({ name }) => name));
  const shapes = shapesOf(model);
  const whole = wholeParameters([...shapes.keys()], targeted, config.modulesToSave ?? []);
  return Array.from(shapes).flatMap(([name, shape]) => {
    const module = name.replace(/\.bias$/, '');
    const isTargeted = module !== name && targeted.has(module);
    const isTrainedBias = module !== name && (config.bias === 'all' || (config.bias === 'lora_only' && isTargeted));
    if (!whole.has(name) && !isTrainedBias) return [];
    return [{ name, key: `base_model.model.${isTargeted ? `${module}.base_layer.bias` : name}`, shape }];
  });
}

/** Parameters by name, a tied head's among them. */
function shapesOf({ parameters }: SavableModel): Map<string, number[]> {
  const shapes = new Map(Array.from(parameters, ([name, { shape }]) => [name, shape]));
  const embeddings = shapes.get(EMBEDDINGS);
  if (embeddings && !shapes.has(HEAD)) shapes.set(HEAD, embeddings);
  return shapes;
}

function wholeParameters(
  names: readonly string[],
  targeted: ReadonlySet<string>,
  wanted: readonly string[],
): Set<string> {
  const found = new Set<string>();
  for (const entry of wanted) {
    const matched = names.filter((name) => ancestorsOf(name).some((path) => isPathEnd(entry, path)));
    if (matched.length === 0)
      throw new ConfigError(`modules_to_save: ${entry} matches nothing; there are ${whatExists(names)}.`);
    const adapted = matched.filter((name) => targeted.has(name.replace(/\.weight$/, '')));
    if (adapted.length > 0)
      throw new ConfigError(
        `modules_to_save: ${entry} takes in ${adapted[0]?.replace(/\.weight$/, '')}, which target_modules adapts; take it out of one of the two.`,
      );
    for (const name of matched) found.add(name);
  }
  return found;
}

/** A parameter's full name and those of the modules that it lies in. */
function ancestorsOf(name: string): string[] {
  const parts = name.split('.');
  return parts.map((_, i) => parts.slice(0, i + 1).join('.'));
}

function whatExists(names: readonly string[]): string {
  const short = names.map((name) =>
    name.replace(/^.*\.mixer\.|^backbone\.(?:layers\.\d+\.)?/, '').replace(/\.weight$/, ''),
  );
  return [...new Set(short)].join(', ');
}
