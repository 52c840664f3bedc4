// SPDX-License-Identifier: Apache-2.0
/** Options that several commands take, and how their values are read. */
import { InvalidArgumentError, Option } from 'commander';
import { BACKENDS } from '../backends/select.ts';

export const jsonOption = () => new Option('--json', 'print one JSON value on stdout and nothing else');

export const setOption = () =>
  new Option('--set <key=value>', 'override a key of the config, e.g. trainer.max_steps=50; may be repeated')
    .argParser(collect)
    .default([], 'none');

export const backendOption = () =>
  new Option('--backend <name>', 'what computes').choices(['auto', ...BACKENDS]).default('auto');

export const revisionOption = () =>
  new Option('--revision <name>', 'branch, tag or commit, when the model is a Hub id').default('main');

/** The types that weights can be written in, and their names in safetensors. */
export const WEIGHT_DTYPES = { float32: 'F32', bfloat16: 'BF16', float16: 'F16' } as const;

export const dtypeOption = () =>
  new Option('--dtype <name>', "type of the written weights (default: the base model's)").choices(
    Object.keys(WEIGHT_DTYPES),
  );

/** Gathers the values of a repeated option. */
export function collect(value: string, previous: readonly string[] = []): string[] {
  return [...previous, value];
}

const SIZE_UNITS: Readonly<Record<string, number>> = { B: 1, KB: 1e3, MB: 1e6, GB: 1e9 };

/** Reads a size such as 5GB or 200MB, in bytes. */
export function byteSize(text: string): number {
  const [, amount, unit] = /^(\d+(?:\.\d+)?)(B|KB|MB|GB)$/i.exec(text) ?? [];
  const bytes = Math.floor(Number(amount) * (SIZE_UNITS[unit?.toUpperCase() ?? ''] ?? Number.NaN));
  if (!(bytes >= 1)) throw new InvalidArgumentError('Expected a size such as 5GB or 200MB.');
  return bytes;
}

/** Reads a whole number of at least `lowest`. */
export function wholeNumber(lowest: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || !Number.isSafeInteger(value) || value < lowest) {
      throw new InvalidArgumentError(`Expected a whole number from ${lowest}.`);
    }
    return value;
  };
}

/** Reads a number that `isValid`; `expected` is its description in the error. */
export function decimalNumber(isValid: (value: number) => boolean, expected: string): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isFinite(value) || !isValid(value)) {
      throw new InvalidArgumentError(`Expected ${expected}.`);
    }
    return value;
  };
}
