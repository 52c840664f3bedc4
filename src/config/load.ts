// SPDX-License-Identifier: Apache-2.0
/** Reads a run config: YAML, --set overrides, schema, cross-checks; every problem with its file:line:column, all at once. */
import {
  type Document,
  isAlias,
  isMap,
  isNode,
  isSeq,
  LineCounter,
  type Node,
  parse,
  parseDocument,
  stringify,
} from 'yaml';
import { ConfigError, messageOf } from '../errors.ts';
import { readTextFile } from '../files.ts';
import { isJsonObject } from '../json.ts';
import { crossFieldProblems } from './checks.ts';
import type { ConfigProblem } from './config_problem.ts';
import { schemaProblems } from './problems.ts';
import { type EvalConfig, evalConfigSchema, type RunConfig, runConfigSchema } from './schema.ts';

export interface LoadedConfig<Config> {
  /** All keys, defaults filled in. */
  config: Config;
  /** The file, as it was named. */
  path: string;
  /** The file's text, without the overrides. */
  source: string;
}

const MAX_CHARACTERS = 1 << 20;
const MAX_ALIASES = 100;

/**
 * The config to train with.
 *
 * @param path YAML file.
 * @param overrides `key=value` as given to --set: dotted key, value in YAML (`trainer.max_steps=50`,
 *   `adapter.target_modules=[in_proj]`, `data.eval=null`). Later ones win.
 * @throws ConfigError that lists every problem, each with `file:line:column` (or `--set key`).
 */
export function loadConfig(path: string, overrides: readonly string[] = []): LoadedConfig<RunConfig> {
  return load(path, overrides, 'train', (input) => runConfigSchema.safeParse(input));
}

/**
 * A config to evaluate with: the same file as for training, or one without data.train and trainer.output_dir. Takes and
 * throws what `loadConfig` does.
 */
export function loadEvalConfig(path: string, overrides: readonly string[] = []): LoadedConfig<EvalConfig> {
  return load(path, overrides, 'eval', (input) => evalConfigSchema.safeParse(input));
}

/**
 * Checks the text of a config to train with, as {@link loadConfig} does.
 * @param path what messages call it
 */
export function checkConfigText(path: string, source: string): void {
  check(path, source, [], 'train', (input) => runConfigSchema.safeParse(input));
}

/** The YAML of a resolved config: loading it gives the same config. */
export function formatConfig(config: RunConfig | EvalConfig): string {
  return stringify(config);
}

type Parsed<Config> =
  | { success: true; data: Config }
  | { success: false; error: { issues: Parameters<typeof schemaProblems>[0] } };

function load<Config>(
  path: string,
  overrides: readonly string[],
  purpose: 'train' | 'eval',
  validate: (input: unknown) => Parsed<Config>,
): LoadedConfig<Config> {
  return check(path, readConfigText(path), overrides, purpose, validate);
}

/** A config that may have faults. */
export interface ExaminedConfig<Config> {
  /** All keys, defaults filled in; only without problems. */
  config?: Config;
  /** What the file and the overrides say, before defaults. */
  values: Record<string, unknown>;
  /** One line each, with its place; in their order in the file. */
  problems: string[];
  /** Dotted keys of the problems. */
  keys: string[];
}

/**
 * Looks at a config to train with, and goes on where {@link loadConfig} would end.
 * @throws ConfigError for a file that is missing or no YAML
 */
export function examineConfig(path: string, overrides: readonly string[] = []): ExaminedConfig<RunConfig> {
  return examine(path, readConfigText(path), overrides, 'train', (input) => runConfigSchema.safeParse(input));
}

function check<Config>(
  path: string,
  source: string,
  overrides: readonly string[],
  purpose: 'train' | 'eval',
  validate: (input: unknown) => Parsed<Config>,
): LoadedConfig<Config> {
  const { config, problems } = examine(path, source, overrides, purpose, validate);
  if (config !== undefined) return { config, path, source };
  throw listError(path, problems);
}

function examine<Config>(
  path: string,
  source: string,
  overrides: readonly string[],
  purpose: 'train' | 'eval',
  validate: (input: unknown) => Parsed<Config>,
): ExaminedConfig<Config> {
  const lines = new LineCounter();
  const { document, values } = parseYaml(path, source, lines);
  const overridden = applyOverrides(values, overrides);

  const result = validate(values);
  const faults = result.success ? [] : schemaProblems(result.error.issues, values);
  const faulty = new Set(faults.map((fault) => fault.path.join('.')));
  const cross = crossFieldProblems(values, purpose).filter((fault) => !faulty.has(fault.path.join('.')));
  const problems = [...faults, ...cross];
  return {
    ...(result.success && problems.length === 0 && { config: result.data }),
    values,
    problems: inOrder(problems.map((problem) => describe(problem, path, document, lines, overridden))),
    keys: problems.map((problem) => problem.path.join('.')),
  };
}

function readConfigText(path: string): string {
  let source: string;
  try {
    source = readTextFile(path);
  } catch (error) {
    throw new ConfigError(messageOf(error), { cause: error });
  }
  if (source.length > MAX_CHARACTERS) {
    throw new ConfigError(`${path}: found ${source.length} characters; expected a config of at most ${MAX_CHARACTERS}`);
  }
  return source;
}

function parseYaml(
  path: string,
  source: string,
  lines: LineCounter,
): { document: Document; values: Record<string, unknown> } {
  const document = parseDocument(source, { lineCounter: lines, prettyErrors: false, stringKeys: true });
  const faults = [...document.errors, ...document.warnings];
  if (faults.length > 0) {
    const placed = faults.map(({ pos: [offset], message: text }) => ({
      place: placeOf(path, offset, lines),
      text,
      offset,
    }));
    throw listError(path, inOrder(placed));
  }
  let values: unknown;
  try {
    values = document.toJS({ maxAliasCount: MAX_ALIASES });
  } catch (error) {
    throw new ConfigError(`${path}: ${messageOf(error)}`, { cause: error });
  }
  if (values === null || values === undefined) {
    throw new ConfigError(
      `${path}: the file is empty; expected a map with the keys model, adapter, data, trainer, logging`,
    );
  }
  if (!isJsonObject(values)) {
    const found = Array.isArray(values) ? 'a list' : `the value ${JSON.stringify(values)}`;
    throw new ConfigError(
      `${path}:1:1: found ${found}; expected a map with the keys model, adapter, data, trainer, logging`,
    );
  }
  return { document, values };
}

/** Writes the overrides into `values` and returns the dotted keys that were written. */
function applyOverrides(values: Record<string, unknown>, overrides: readonly string[]): string[] {
  return overrides.map((override) => {
    const match = /^([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)=(.*)$/s.exec(override);
    const [, key, text] = match ?? [];
    if (key === undefined || text === undefined) {
      throw new ConfigError(`--set ${override}: expected key=value, such as trainer.max_steps=50`);
    }
    let value: unknown;
    try {
      value = parse(text, { prettyErrors: false, stringKeys: true, logLevel: 'error' });
    } catch (error) {
      throw new ConfigError(`--set ${key}: ${JSON.stringify(text)} is not YAML: ${messageOf(error)}`);
    }
    setAt(values, key.split('.'), value);
    return key;
  });
}

function setAt(values: Record<string, unknown>, path: string[], value: unknown): void {
  const [key, ...rest] = path;
  if (key === undefined) return;
  let next = value;
  if (rest.length > 0) {
    const current = Object.hasOwn(values, key) ? values[key] : undefined;
    const part = isJsonObject(current) ? { ...current } : {};
    setAt(part, rest, value);
    next = part;
  }
  Object.defineProperty(values, key, { value: next, enumerable: true, configurable: true, writable: true });
}

interface PlacedProblem {
  place: string;
  text: string;
  /** Where the file shows it; overrides come after the file. */
  offset: number;
}

function describe(
  problem: ConfigProblem,
  path: string,
  document: Document,
  lines: LineCounter,
  overridden: readonly string[],
): PlacedProblem {
  const key = problem.path.join('.');
  const text = `${key}: ${problem.message}`;
  const override = overridden.findLast((name) => key === name || key.startsWith(`${name}.`));
  if (override !== undefined) return { place: `--set ${override}`, text, offset: Number.POSITIVE_INFINITY };
  const offset = offsetOf(document, problem.path);
  return { place: placeOf(path, offset, lines), text, offset };
}

/** Where to point at for a key path: its last key, or the last one of it that the file has. */
function offsetOf(document: Document, path: readonly PropertyKey[]): number {
  let node: unknown = document.contents;
  let offset = 0;
  for (const key of path) {
    if (isAlias(node)) node = node.resolve(document);
    let next: Node | undefined;
    if (isMap(node)) {
      const pair = node.items.find((item) => isNode(item.key) && String(item.key) === String(key));
      if (!isNode(pair?.key)) return offset;
      offset = pair.key.range?.[0] ?? offset;
      next = isNode(pair.value) ? pair.value : undefined;
    } else if (isSeq(node)) {
      const item = node.items[Number(key)];
      next = isNode(item) ? item : undefined;
      offset = next?.range?.[0] ?? offset;
    }
    if (next === undefined) return offset;
    node = next;
  }
  return offset;
}

function placeOf(path: string, offset: number, lines: LineCounter): string {
  const { line, col } = lines.linePos(offset);
  return `${path}:${line}:${col}`;
}

function inOrder(problems: PlacedProblem[]): string[] {
  return problems
    .sort((a, b) => (a.offset === b.offset ? 0 : a.offset - b.offset))
    .map((problem) => `${problem.place}: ${problem.text}`);
}

/** One error for all problems of a config. */
export function listError(path: string, problems: readonly string[]): ConfigError {
  return new ConfigError(
    problems.length === 1 ? problems.join('') : [`${path}: ${problems.length} problems`, ...problems].join('\n  '),
  );
}
