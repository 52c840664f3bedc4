// SPDX-License-Identifier: Apache-2.0
// `npm run test:cuda:sanitize [-- --tool=memcheck] [--build-only] [FILES]`: the op tests on the GPU under compute-sanitizer, with
// each of its tools memcheck, racecheck and initcheck, or one. The plugin is linked anew for it with an allocator that keeps nothing
// for reuse (self_check/plain_allocator.cu), into build/cuda_check. FILES: test files; default test/ops.
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { findNvcc, nvccCompileFlags, nvccLinkFlags } from './toolchain.mjs';

const TOOLS = ['memcheck', 'racecheck', 'initcheck'];

const native = dirname(fileURLToPath(import.meta.url));
const root = dirname(native);
const built = join(root, 'build', `${process.platform}-${process.arch}`);
const folder = join(root, 'build', 'cuda_check');
const { values: options, positionals: files } = parseArgs({
  allowPositionals: true,
  options: { tool: { type: 'string' }, 'build-only': { type: 'boolean', default: false } },
});
if (options.tool && !TOOLS.includes(options.tool)) {
  console.error(`--tool is '${options.tool}'; expected one of ${TOOLS.join(', ')}`);
  process.exit(2);
}

function build() {
  if (!findNvcc()) {
    console.error(
      '*** test:cuda:sanitize: nvcc was not found ($NVCC, $CUDA_HOME, PATH), and there is no build/cuda_check',
    );
    process.exit(1);
  }
  execFileSync(process.execPath, [join(native, 'build.mjs'), '--cuda'], { stdio: 'inherit' });
  mkdirSync(folder, { recursive: true });
  const nvcc = findNvcc().command;
  const allocator = join(folder, 'plain_allocator.o');
  const source = join(native, 'cuda', 'self_check', 'plain_allocator.cu');
  execFileSync(nvcc, [...nvccCompileFlags, '-c', source, '-o', allocator], { stdio: 'inherit' });
  const objects = readdirSync(join(built, 'objects'))
    .filter((name) => /^cuda-.*\.o$/.test(name) && name !== 'cuda-allocator.o')
    .map((name) => join(built, 'objects', name));
  execFileSync(nvcc, [...nvccLinkFlags, ...objects, allocator, '-o', join(folder, 'native_cuda.so')], {
    stdio: 'inherit',
  });
  copyFileSync(join(built, 'native.node'), join(folder, 'native.node'));
}

// On a machine that has only what was built elsewhere, that is taken.
if (existsSync(join(built, 'objects')) || !existsSync(join(folder, 'native_cuda.so'))) build();

if (!options['build-only']) {
  const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs');
  const config = join(root, 'test', 'cuda', 'vitest.config.ts');
  const tests = files.length > 0 ? files : ['test/ops'];
  for (const tool of options.tool ? [options.tool] : TOOLS) {
    console.error(`\n=== compute-sanitizer ${tool}`);
    const { status, error } = spawnSync(
      'compute-sanitizer',
      [
        ...['--tool', tool, '--target-processes', 'all', '--error-exitcode', '1', '--print-limit', '20'],
        ...[process.execPath, vitest, 'run', '--config', config, '--maxWorkers=1', '--testTimeout=600000', ...tests],
      ],
      { cwd: root, stdio: 'inherit', env: { ...process.env, MAMBATUNE_NATIVE: join(folder, 'native.node') } },
    );
    if (error) console.error(`compute-sanitizer did not start: ${error.message} (it comes with the CUDA toolkit)`);
    if (status !== 0) process.exitCode = 1;
  }
}
