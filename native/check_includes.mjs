// SPDX-License-Identifier: Apache-2.0
// The C++ half of the import table (docs/design.md section 3), run by `npm run lint`: the kernels know neither N-API nor
// each other, and all of them meet in native/include.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

const native = dirname(fileURLToPath(import.meta.url));
const mayInclude = {
  include: ['include'],
  cpu: ['include', 'cpu'],
  cuda: ['include', 'cuda'],
  binding: ['include', 'binding'],
};
const systemHeaders = [
  { pattern: /^(node_api|js_native_api|uv|v8)/, folder: 'binding' },
  { pattern: /^(cuda|cublas|curand|cooperative_groups|mma|cub\/|thrust\/)/, folder: 'cuda' },
];

/** @returns {string | undefined} why `folder` may not write this #include */
function violation(folder, file, quote, name) {
  if (quote === '<') {
    const rule = systemHeaders.find(({ pattern }) => pattern.test(name));
    return rule && rule.folder !== folder ? `<${name}> belongs to native/${rule.folder} alone` : undefined;
  }
  const path = [dirname(file), join(native, 'include')].map((base) => resolve(base, name)).find(existsSync);
  if (!path) return `"${name}" does not exist here or in native/include`;
  const inside = relative(native, path);
  if (mayInclude[folder].includes(inside.split(sep)[0])) return undefined;
  return `native/${folder} may include native/{${mayInclude[folder].join(',')}}, not ${inside}`;
}

const problems = [];
for (const entry of readdirSync(native, { recursive: true, withFileTypes: true })) {
  const file = join(entry.parentPath, entry.name);
  const folder = relative(native, file).split(sep)[0];
  if (!entry.isFile() || !mayInclude[folder]) continue;
  for (const [index, line] of readFileSync(file, 'utf8').split('\n').entries()) {
    const [, quote, header] = /^\s*#\s*include\s*([<"])([^>"]+)/.exec(line) ?? [];
    const problem = header && violation(folder, file, quote, header);
    if (problem) problems.push(`${relative(dirname(native), file)}:${index + 1}: ${problem}`);
  }
}
for (const problem of problems) console.error(problem);
process.exitCode = problems.length > 0 ? 1 : 0;
