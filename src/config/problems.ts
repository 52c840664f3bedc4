// SPDX-License-Identifier: Apache-2.0
/** Turns what the schema refuses into problems a person can act on: what was found, what was expected, the nearest name. */
import type { z } from 'zod';
import { nearestName } from '../errors.ts';
import type { ConfigProblem } from './config_problem.ts';
import { REFUSED_LR_SCHEDULES } from './lr_schedules.ts';
import { REFUSED_LORA_OPTIONS } from './refused_lora_options.ts';
import { configJsonSchema, type JsonSchema } from './schema.ts';

/** The problems behind zod's issues. `config` is the parsed YAML they were found in. */
export function schemaProblems(issues: readonly z.core.$ZodIssue[], config: unknown): ConfigProblem[] {
  const schema = configJsonSchema();
  return issues.flatMap((issue) => {
    if (issue.code === 'unrecognized_keys') {
      return issue.keys.map((key) => ({
        path: [...issue.path, key],
        message: unknownKey(schema, issue.path, key, config),
      }));
    }
    if (issue.code === 'invalid_key') return [{ path: issue.path, message: wrongName(schema, issue.path, config) }];
    return [{ path: issue.path, message: wrongValue(schema, issue.path, config) }];
  });
}

function unknownKey(schema: JsonSchema, path: readonly PropertyKey[], key: string, config: unknown): string {
  const refused = path.join('.') === 'adapter' ? REFUSED_LORA_OPTIONS[key] : undefined;
  if (refused) return `not supported: ${refused.reason}; remove it`;
  const known = Object.keys(schemaAt(schema, path, config)?.properties ?? {});
  const section = path.length === 0 ? 'at the top' : `in ${path.join('.')}`;
  return `unknown key${suggestion(schema, known, key)} Known keys ${section}: ${known.join(', ')}`;
}

/** The nearest sibling, or the section in which a key of exactly this name does exist. */
function suggestion(schema: JsonSchema, siblings: string[], key: string): string {
  const near = nearestName(key, siblings);
  if (near !== undefined) return `; did you mean ${near}?`;
  const section = Object.entries(schema.properties ?? {}).find(([, part]) =>
    Object.hasOwn(part.properties ?? {}, key),
  )?.[0];
  return section === undefined ? '.' : `; did you mean ${section}.${key}?`;
}

function wrongName(schema: JsonSchema, path: readonly PropertyKey[], config: unknown): string {
  const map = schemaAt(schema, path.slice(0, -1), config);
  return `found the name ${JSON.stringify(path.at(-1))}; expected ${expectation({ type: 'string', ...map?.propertyNames })}`;
}

function wrongValue(schema: JsonSchema, path: readonly PropertyKey[], config: unknown): string {
  const found = valueAt(config, path);
  const expected = schemaAt(schema, path, config);
  if (found === undefined) {
    const meaning = expected?.description === undefined ? '' : ` (${expected.description.replace(/\.$/, '')})`;
    return `missing; expected ${expectation(expected)}${meaning}`;
  }
  const refused = path.at(-1) === 'lr_scheduler_type' ? REFUSED_LR_SCHEDULES[String(found)] : undefined;
  if (refused !== undefined) return refused;
  const choices = expected?.enum?.filter((choice) => typeof choice === 'string') ?? [];
  const near = typeof found === 'string' ? nearestName(found, choices) : undefined;
  const hint = near === undefined ? '' : `; did you mean ${near}?`;
  return `found ${show(found)}; expected ${expectation(expected)}${hint}`;
}

/** The schema of the value at `path`, through the branches of nullable values and of kinds that the config names. */
function schemaAt(schema: JsonSchema, path: readonly PropertyKey[], config: unknown): JsonSchema | undefined {
  let node: JsonSchema | undefined = schema;
  for (const [depth, key] of path.entries()) {
    const branches: JsonSchema[] = branchesOf(node, valueAt(config, path.slice(0, depth)));
    const found = branches.map((branch) => childOf(branch, key)).filter((child) => child !== undefined);
    const kinds = found.map((child) => child.const).filter((kind) => kind !== undefined);
    node = kinds.length > 1 ? { ...found[0], const: undefined, enum: kinds } : found[0];
  }
  const maps = branchesOf(node, valueAt(config, path)).filter((branch) => branch.properties !== undefined);
  return maps.length === 1 ? maps[0] : node;
}

/** The alternatives of a schema; of those that differ by a constant key, the ones with the constants that `value` has. */
function branchesOf(schema: JsonSchema | undefined, value: unknown): JsonSchema[] {
  if (schema?.anyOf) return schema.anyOf.flatMap((branch) => branchesOf(branch, value));
  if (!schema?.oneOf) return schema === undefined ? [] : [schema];
  const agreeing = schema.oneOf.filter(({ properties = {} }) =>
    Object.entries(properties).every(([key, { const: kind }]) => kind === undefined || kind === valueAt(value, [key])),
  );
  return agreeing.length === 1 ? agreeing : schema.oneOf;
}

function childOf(schema: JsonSchema, key: PropertyKey): JsonSchema | undefined {
  if (typeof key === 'number') return schema.items;
  const child = Object.getOwnPropertyDescriptor(schema.properties ?? {}, key)?.value as JsonSchema | undefined;
  const others = schema.additionalProperties;
  return child ?? (typeof others === 'object' ? others : undefined);
}

function expectation(schema: JsonSchema | undefined): string {
  if (schema === undefined) return 'no such key';
  if (schema.anyOf) return schema.anyOf.map(expectation).join(' or ');
  if (schema.oneOf)
    return `a map with a type of ${schema.oneOf.map(({ properties }) => properties?.type?.const).join(', ')}`;
  if (schema.enum) return `one of ${schema.enum.map((value) => String(value)).join(', ')}`;
  if (schema.const !== undefined) return String(schema.const);
  switch (schema.type) {
    case 'integer':
      return `an integer${range(schema)}`;
    case 'number':
      return `a number${range(schema)}`;
    case 'boolean':
      return 'true or false';
    case 'string':
      if (schema.pattern !== undefined) return `a string that matches ${schema.pattern}`;
      return schema.minLength === undefined ? 'a string' : 'a non-empty string';
    case 'array':
      return `a${schema.minItems === undefined ? '' : ' non-empty'} list, each item ${expectation(schema.items)}`;
    case 'null':
      return 'null';
    default:
      if (typeof schema.additionalProperties === 'object')
        return `a map of names to ${expectation(schema.additionalProperties)}`;
      return `a map with the keys ${Object.keys(schema.properties ?? {}).join(', ')}`;
  }
}

function range(schema: JsonSchema): string {
  const bounds: string[] = [];
  if (isBound(schema.minimum)) bounds.push(`at least ${schema.minimum}`);
  if (isBound(schema.exclusiveMinimum)) bounds.push(`greater than ${schema.exclusiveMinimum}`);
  if (isBound(schema.maximum)) bounds.push(`at most ${schema.maximum}`);
  if (isBound(schema.exclusiveMaximum)) bounds.push(`less than ${schema.exclusiveMaximum}`);
  return bounds.length === 0 ? '' : ` ${bounds.join(' and ')}`;
}

/** Integers carry the range of safe integers as bounds, which tells a reader nothing. */
function isBound(value: number | undefined): boolean {
  return value !== undefined && Math.abs(value) !== Number.MAX_SAFE_INTEGER;
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  let current = value;
  for (const key of path) {
    if (typeof current !== 'object' || current === null) return undefined;
    current = Object.getOwnPropertyDescriptor(current, key)?.value;
  }
  return current;
}

function show(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object' && value !== null) return 'a map';
  if (typeof value !== 'string') return String(value);
  const text = JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value);
  return `the string ${text}`;
}
