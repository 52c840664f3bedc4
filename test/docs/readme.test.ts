// SPDX-License-Identifier: Apache-2.0
/** The README's claims that a machine can check: its library example, its links, and its two command lines. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { beforeAll, describe, expect, it, vi } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const readme = readFileSync(join(root, 'README.md'), 'utf8');
const folder = join(root, 'build', 'readme');

function codeBlocks(language: string): string[] {
  return [...readme.matchAll(/^```(\w+)\n(.*?)^```$/gms)]
    .filter((match) => match[1] === language)
    .map((match) => match[2] ?? '');
}

/** Replaces text that must be there. */
function shorten(source: string, from: string, to: string): string {
  expect(source).toContain(from);
  return source.replace(from, to);
}

describe('the library example', () => {
  beforeAll(() => {
    mkdirSync(folder, { recursive: true });
    const example = shorten(codeBlocks('ts')[0] ?? '', 'numTrainEpochs: 3', 'maxSteps: 2');
    writeFileSync(join(folder, 'example.ts'), shorten(example, './results', join(folder, 'results')));
    const config = { extends: '../../tsconfig.json', compilerOptions: { rootDir: '../..' }, include: ['example.ts'] };
    writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify(config));
  });

  it('passes the type checker', () => {
    const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
    execFileSync(process.execPath, [tsc, '-p', folder], { cwd: root, stdio: 'pipe', encoding: 'utf8' });
  });

  it('runs, prints a completion and writes an adapter', async () => {
    const printed: unknown[] = [];
    const log = vi.spyOn(console, 'log').mockImplementation((value) => printed.push(value));
    await import(pathToFileURL(join(folder, 'example.ts')).href);
    log.mockRestore();
    expect(printed).toHaveLength(1);
    expect(printed[0]).toEqual([expect.stringMatching(/^politician, n\../)]);
    expect(existsSync(join(folder, 'results', 'adapter', 'adapter_model.safetensors'))).toBe(true);
  });
});

describe('the command lines', () => {
  it('use scripts and files that exist', () => {
    const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
      scripts: Record<string, string>;
    };
    const lines = codeBlocks('sh').join('\n');
    const named = [...lines.matchAll(/npm run (\S+)/g)].map((match) => match[1] as string);
    expect(named.length).toBeGreaterThan(0);
    expect(named.filter((name) => !scripts[name])).toEqual([]);
    const configs = [...lines.matchAll(/configs\/\S+/g)].map((match) => match[0]);
    expect(configs.filter((path) => !existsSync(join(root, path)))).toEqual([]);
  });
});

it('links to files that exist', () => {
  const links = [...readme.matchAll(/\]\((?!https?:)([^)#]+)/g)].map((match) => match[1] as string);
  expect(links.length).toBeGreaterThan(3);
  expect(links.filter((path) => !existsSync(join(root, path)))).toEqual([]);
});
