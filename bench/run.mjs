// SPDX-License-Identifier: Apache-2.0
// Runs a compiled benchmark by name:  npm run bench -- NAME [its arguments];  without a name it lists them.
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const folder = fileURLToPath(new URL('.', import.meta.url));
const names = readdirSync(folder)
  .filter((name) => name.endsWith('.ts'))
  .map((name) => name.slice(0, -3));
const [name] = process.argv.splice(2, 1);
if (names.includes(name)) {
  await import(`../build/bench/bench/${name}.js`);
} else {
  console.error(
    `${name ? `there is no benchmark '${name}'; ` : ''}usage: npm run bench -- NAME, one of: ${names.sort().join(', ')}`,
  );
  process.exitCode = 2;
}
