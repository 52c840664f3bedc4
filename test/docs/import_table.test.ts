// SPDX-License-Identifier: Apache-2.0
/** The lint rules bite: one file for each thing that docs/design.md section 3 and the house rules forbid. */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** File, its content, and the rule that must refuse it; none when it is allowed. */
const cases: [path: string, source: string, rule?: string][] = [
  ['src/errors.ts', "export { a } from './model/config.ts';", 'noRestrictedImports'],
  ['src/autograd/gradients/a.ts', "export { a } from '../../ops/a.ts';", 'noRestrictedImports'],
  ['src/autograd/b.ts', "export { a } from '../errors.ts';"],
  ['src/backends/kernels/a.ts', "export { a } from '../../ops/a.ts';", 'noRestrictedImports'],
  ['src/backends/b.ts', "export { a } from './addon.ts';"],
  ['src/ops/a.ts', "export { a } from '../model/config.ts';", 'noRestrictedImports'],
  ['src/ops/b.ts', "export { a } from '../autograd/a.ts';"],
  ['src/ops/c.ts', "export const a = await import('../backends/addon.ts');", 'noRestrictedImports'],
  ['src/checkpoint/a.ts', "export { a } from '../model/backbone.ts';", 'noRestrictedImports'],
  ['src/checkpoint/b.ts', "export { a } from '../model/config.ts';"],
  ['src/checkpoint/c.ts', "export { a } from '@tensorflow/tfjs-core';", 'noRestrictedImports'],
  ['src/tokenizer/a.ts', "export { a } from '../checkpoint/a.ts';", 'noRestrictedImports'],
  ['src/config/a.ts', "export { a } from '../../trainer/a.ts';", 'noRestrictedImports'],
  ['src/logging/a.ts', "export { a } from '../../trainer/a.ts';", 'noRestrictedImports'],
  ['src/model/a.ts', "export { a } from '../../adapters/a.ts';", 'noRestrictedImports'],
  ['src/model/b.ts', "export type { A } from '../backends/device_backend.ts';", 'noRestrictedImports'],
  ['src/model/c.ts', "export { a } from '../backends/select.ts';"],
  ['src/generation/b.ts', "export { a } from '../backends/mamba_step.ts';"],
  ['src/generation/c.ts', "export { a } from '../backends/device_backend.ts';", 'noRestrictedImports'],
  ['src/generation/a.ts', "export { a } from '../tokenizer/a.ts';", 'noRestrictedImports'],
  ['adapters/a.ts', "export { a } from '../datasets/a.ts';", 'noRestrictedImports'],
  ['adapters/b.ts', "export { a } from '../src/model/a.ts';"],
  ['datasets/readers/a.ts', "export { a } from '../../src/model/a.ts';", 'noRestrictedImports'],
  ['trainer/a.ts', "export { a } from '../src/cli/a.ts';", 'noRestrictedImports'],
  ['trainer/b.ts', "export { a } from '../src/backends/addon.ts';", 'noRestrictedImports'],
  ['trainer/c.ts', "export { a } from '../datasets/a.ts';"],
  ['src/index.ts', "export { a } from './cli/a.ts';", 'noRestrictedImports'],
  ['src/cli/a.ts', "export { a } from '../../trainer/c.ts';"],
  ['src/ops/cycle_a.ts', "import { b } from './cycle_b.ts';\nexport const a = () => b;", 'noImportCycles'],
  ['src/ops/cycle_b.ts', "import { a } from './cycle_a.ts';\nexport const b = () => a;", 'noImportCycles'],
  ['src/ops/default.ts', 'export default 1;', 'noDefaultExport'],
  ['src/ops/any.ts', 'export const x: any = 1;', 'noExplicitAny'],
  ['test/only.test.ts', "import { it } from 'vitest';\nit.only('x', () => {});", 'noFocusedTests'],
  ['test/skip.test.ts', "import { it } from 'vitest';\nit.skip('x', () => {});", 'noSkippedTests'],
];

function lintReport(folder: string): Map<string, string[]> {
  const biome = join(root, 'node_modules', '@biomejs', 'biome', 'bin', 'biome');
  const args = [biome, 'lint', '--reporter=json', '--max-diagnostics=none', '.'];
  const { stdout, stderr } = spawnSync(process.execPath, args, { cwd: folder, encoding: 'utf8' });
  if (!stdout.startsWith('{')) throw new Error(`biome wrote no report: ${stdout}${stderr}`);
  const rules = new Map<string, string[]>();
  for (const { category, location } of JSON.parse(stdout).diagnostics) {
    const path = typeof location.path === 'string' ? location.path : location.path.file;
    rules.set(path, [...(rules.get(path) ?? []), category.split('/').at(-1)]);
  }
  return rules;
}

it('refuses every import that the table does not allow, and what the house forbids', () => {
  const folder = temporaryFolder();
  cpSync(join(root, 'biome.json'), join(folder, 'biome.json'));
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  for (const [path, source] of cases) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), `${source}\n`);
  }
  const rules = lintReport(folder);
  const wrong = cases.filter(([path, , rule]) => (rule ? !rules.get(path)?.includes(rule) : rules.has(path)));
  expect(
    wrong.map(
      ([path, source, rule]) => `${path} (${source}): expected ${rule ?? 'no'}, found ${rules.get(path) ?? 'no'} rule`,
    ),
  ).toEqual([]);
});
