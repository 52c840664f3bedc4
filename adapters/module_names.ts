// SPDX-License-Identifier: Apache-2.0
/** How the options of a LoraConfig name modules; answers to check_target_module_exists and get_pattern_key of peft. */

/** Whether `end` is a full name, or the whole last parts of one. */
export function isPathEnd(end: string, name: string): boolean {
  return name === end || name.endsWith(`.${end}`);
}

/** Whether a regular expression matches a full name, or the whole last parts of one. */
export function matchesPathEnd(pattern: string, name: string): boolean {
  return new RegExp(`^(?:.*\\.)?(?:${pattern})$`).test(name);
}

/** Whether names (as full names or their ends), or one regular expression for full names, take a name in. */
export function isNamedBy(named: readonly string[] | string, name: string): boolean {
  if (typeof named === 'string') return new RegExp(`^(?:${named})$`).test(name);
  return named.some((end) => isPathEnd(end, name));
}

/** The index of the layer that a full name lies in; undefined outside. @param patterns names of the lists of layers; null: any */
export function layerOf(name: string, patterns: readonly string[] | string | null): number | undefined {
  for (const pattern of patterns === null ? ['[^.]*'] : [patterns].flat()) {
    const index = new RegExp(`^(?:.*?\\.)?(?:${pattern})\\.(\\d+)\\.`).exec(name)?.[1];
    if (index !== undefined) return Number(index);
  }
  return undefined;
}
