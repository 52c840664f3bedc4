// SPDX-License-Identifier: Apache-2.0
/** Configs with a comment before each key. */

import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { commentedConfig } from '../../src/config/commented.ts';
import type { JsonSchema } from '../../src/config/schema.ts';

const schema: JsonSchema = {
  properties: {
    model: {
      description: 'The model.',
      properties: {
        path: { description: 'Where it is. Or its id.' },
        kind: { description: 'What it is.', enum: ['a', 'b'], default: 'a' },
      },
    },
    jobs: {
      description: 'What to do.',
      default: null,
      anyOf: [
        {
          items: {
            oneOf: [
              {
                properties: {
                  type: { description: 'First.', const: 'x' },
                  limit: { description: 'Most.', default: 3 },
                },
              },
              { properties: { type: { description: 'Second.', const: 'y' }, path: { description: 'A file.' } } },
            ],
          },
        },
        {},
      ],
    },
  },
};

describe('commentedConfig', () => {
  it('writes the given keys with the first sentence of their descriptions', () => {
    const text = commentedConfig(schema, { model: { path: 'm: x', kind: 'b' } }, { all: false });
    expect(text).toBe('# The model.\nmodel:\n  # Where it is.\n  path: "m: x"\n  # What it is.\n  kind: b\n');
    expect(parse(text)).toEqual({ model: { path: 'm: x', kind: 'b' } });
  });

  it('writes all keys, their choices and defaults, and what could stand where nothing does', () => {
    const text = commentedConfig(schema, { model: { kind: 'b' }, jobs: null }, { all: true });
    expect(text).toBe(`# The model.
model:
  # Where it is. Or its id.
  # path: …
  # What it is. One of: a, b. Default: a.
  kind: b

# What to do.
jobs: null
#   # First.
#   - type: x
#     # Most.
#     limit: 3
#   # Second.
#   - type: y
#     # A file.
#     # path: …
`);
    expect(parse(text)).toEqual({ model: { kind: 'b' }, jobs: null });
    const uncommented = text.replace('jobs: null', 'jobs:').replace(/^# {3}/gm, '');
    expect(parse(uncommented)).toMatchObject({ jobs: [{ type: 'x', limit: 3 }, { type: 'y' }] });
  });

  it('wraps long descriptions', () => {
    const words = Array.from({ length: 60 }, (_, i) => `word${i}`).join(' ');
    const text = commentedConfig({ properties: { a: { description: `${words}.` } } }, { a: 1 }, { all: true });
    const lines = text.trimEnd().split('\n');
    expect(lines.length).toBeGreaterThan(3);
    for (const line of lines) expect(line.length).toBeLessThanOrEqual(110);
    expect(
      lines
        .slice(0, -1)
        .map((line) => line.slice(2))
        .join(' '),
    ).toBe(`${words}.`);
  });
});
