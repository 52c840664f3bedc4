// SPDX-License-Identifier: Apache-2.0
// `npm run test:sanitize`: builds the addon with AddressSanitizer and UndefinedBehaviorSanitizer and runs the tests that
// drive its kernels with it. A report ends the process, and so fails the run.
//
// Node itself is not built with the sanitizer, so its runtime is preloaded, and leaks are not looked for: node and V8 keep
// much until the end on purpose. The addon's own are covered by the tests that count its buffers.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findCompiler } from './toolchain.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const tests = process.argv.length > 2 ? process.argv.slice(2) : ['test/ops', 'test/backends'];

execFileSync(process.execPath, [join(root, 'native', 'build.mjs'), '--sanitize', '--strict', '--warnings'], {
  stdio: 'inherit',
});

const compiler = findCompiler().command;
const runtime = ['libasan.so', `libclang_rt.asan-${process.arch === 'x64' ? 'x86_64' : 'aarch64'}.so`]
  .map((name) =>
    execFileSync(compiler, [`-print-file-name=${name}`])
      .toString()
      .trim(),
  )
  .find(existsSync);
if (!runtime) throw new Error(`${compiler} has no shared AddressSanitizer runtime (Debian/Ubuntu: it comes with g++)`);

// Only what runs the addon. What is kept for reuse cannot be tested: under AddressSanitizer released memory goes back at once.
const selection = ['--testNamePattern', '^(?!.*(on wasm|on cpu|keeps memory for reuse))'];
const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs');
const { status } = spawnSync(process.execPath, [vitest, 'run', ...selection, ...tests], {
  cwd: root,
  stdio: 'inherit',
  env: {
    ...process.env,
    MAMBATUNE_NATIVE: join(root, 'build', 'sanitize', 'native.node'),
    LD_PRELOAD: runtime,
    ASAN_OPTIONS: 'detect_leaks=0:abort_on_error=1:allocator_may_return_null=1',
    UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
  },
});
process.exitCode = status ?? 1;
