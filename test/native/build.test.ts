// SPDX-License-Identifier: Apache-2.0
/** native/build.mjs with compilers that are missing, broken or old; a script that touches its outputs stands for a compiler. */
import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeEach, expect, it } from 'vitest';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
let folder: string;

beforeEach(() => {
  folder = temporaryFolder();
  cpSync(join(root, 'native'), join(folder, 'native'), { recursive: true, filter: (path) => !path.endsWith('.cu') });
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  mkdirSync(join(folder, 'bin'));
});

const addon = () => join(folder, 'build', `${process.platform}-${process.arch}`, 'native.node');
const calls = () => readFileSync(join(folder, 'calls'), 'utf8').trim().split('\n');

/** Installs a compiler that logs its calls and fails on arguments that hold `fails`. */
function installCompiler(fails = 'nothing at all') {
  const path = join(folder, 'bin', 'c++');
  const script = `#!/bin/sh
for last; do :; done
case "$*" in
  *--version*) echo "test compiler"; exit 0;;
  *"${fails}"*) echo "c++: error: cannot do ${fails}" >&2; exit 1;;
esac
echo "$*" >> '${join(folder, 'calls')}'
: > "$last"
`;
  writeFileSync(path, script);
  chmodSync(path, 0o755);
}

/** Runs the build with only the folder's own programs on the PATH. */
function build(...flags: string[]) {
  const { status, stderr } = spawnSync(process.execPath, [join(folder, 'native', 'build.mjs'), ...flags], {
    env: { PATH: join(folder, 'bin') },
    encoding: 'utf8',
  });
  return { status, stderr };
}

it('without a compiler succeeds loudly, and fails when the addon was asked for', () => {
  const { status, stderr } = build();
  expect(stderr).toContain('*** mambatune: the native CPU kernels could not be built: no C++ compiler found');
  expect(stderr).toContain('`wasm` backend');
  expect(stderr).toContain('npm run build:native');
  expect(status).toBe(0);
  expect(build('--strict').status).toBe(1);
});

it('compiles what changed, and only that', () => {
  installCompiler();
  expect(build('--strict')).toMatchObject({ status: 0 });
  expect(existsSync(addon())).toBe(true);
  const all = calls().length;
  expect(build().stderr).toContain('0 objects compiled');
  expect(calls()).toHaveLength(all);

  appendFileSync(join(folder, 'native', 'binding', 'memory.cc'), '\n');
  expect(build().stderr).toContain('1 objects compiled');
  appendFileSync(join(folder, 'native', 'include', 'device.h'), '\n');
  build();
  expect(calls()).toHaveLength(2 * all + 2);
});

it.runIf(process.arch === 'x64')('leaves out an instruction set that the compiler does not know, and says so', () => {
  installCompiler('-mavx512f');
  const { status, stderr } = build('--strict');
  expect(status).toBe(0);
  expect(stderr).toMatch(/no avx512 kernels: c\+\+ cannot compile them \(c\+\+: error: cannot do -mavx512f\)/);
  const device = calls().find((call) => call.includes('device.cc'));
  expect(device).toContain('-DMAMBATUNE_HAS_AVX2 -DMAMBATUNE_HAS_PORTABLE');
  expect(device).not.toContain('HAS_AVX512');
  expect(calls().at(-1)).not.toContain('-avx512.o');
});

it('removes an addon that the sources no longer build', () => {
  installCompiler();
  build();
  installCompiler('thread_pool.cc');
  appendFileSync(join(folder, 'native', 'cpu', 'thread_pool.cc'), '\n');
  const { status, stderr } = build();
  expect(status).toBe(0);
  expect(stderr).toContain('cannot do thread_pool.cc');
  expect(existsSync(addon())).toBe(false);
});

it('fails on --cuda when nvcc or the sources are missing', () => {
  installCompiler();
  const { status, stderr } = build('--cuda');
  expect(status).toBe(1);
  expect(stderr).toContain('the CUDA plugin could not be built');
  expect(readdirSync(join(addon(), '..'))).toContain('native.node');
});
