// SPDX-License-Identifier: Apache-2.0
// Builds the native addon with nothing but a C++ compiler, and the CUDA plugin beside it where nvcc is:
//
//   node native/build.mjs [--force] [--strict] [--warnings] [--cuda] [--sanitize]
//
// Kernel sources (those that mention MAMBATUNE_ISA) are compiled once per instruction set. Objects whose command, source
// and headers are unchanged are kept. As npm's install step it never fails: it says what could not be built, and what
// runs instead.
//   --force     compile everything anew        --strict    exit 1 when the addon could not be built
//   --warnings  every warning is an error      --cuda      the CUDA plugin too must be built (implies --strict)
//   --sanitize  AddressSanitizer and UndefinedBehaviorSanitizer, into build/sanitize, without the CUDA plugin
import { execFile, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { basename, dirname, extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import {
  compileFlags,
  findCompiler,
  findNvcc,
  instructionSets,
  linkFlags,
  nvccCompileFlags,
  nvccLinkFlags,
} from './toolchain.mjs';

const native = dirname(fileURLToPath(import.meta.url));
const require = createRequire(import.meta.url);
const target = `${process.platform}-${process.arch}`;
const boolean = { type: 'boolean', default: false };
const { values: options } = parseArgs({
  options: { force: boolean, strict: boolean, warnings: boolean, cuda: boolean, sanitize: boolean },
});
const outputFolder = join(dirname(native), 'build', options.sanitize ? 'sanitize' : target);

/** Paths of a folder's files with one of the extensions. */
function filesOf(folder, ...extensions) {
  const names = existsSync(join(native, folder)) ? readdirSync(join(native, folder)).sort() : [];
  return names.filter((name) => extensions.includes(extname(name))).map((name) => join(native, folder, name));
}

/**
 * One object to compile.
 * @typedef {{ source: string, object: string, args: string[], isa?: string }} Job
 * @returns {Job}
 */
function job(source, args, isa) {
  const name = [basename(dirname(source)), basename(source, extname(source)), isa].filter(Boolean).join('-');
  const object = join(outputFolder, 'objects', `${name}.o`);
  return { source, object, isa, args: [...args, '-I', join(native, 'include'), '-c', source, '-o', object] };
}

/** Runs the jobs whose inputs changed, as many at once as there are processors. @returns how many it ran */
async function compile(compiler, jobs) {
  const headers = ['include', 'cpu', 'cuda', 'binding'].flatMap((folder) => filesOf(folder, '.h', '.cuh'));
  const headerText = headers.map((path) => readFileSync(path, 'utf8')).join('\n');
  const stampOf = ({ source, args }) =>
    createHash('sha256')
      .update(JSON.stringify([compiler, args, readFileSync(source, 'utf8'), headerText]))
      .digest('hex');
  const isFresh = ({ object, stamp }) =>
    existsSync(object) && existsSync(`${object}.sha256`) && readFileSync(`${object}.sha256`, 'utf8') === stamp;
  const stale = jobs
    .map((each) => ({ ...each, stamp: stampOf(each) }))
    .filter((each) => options.force || !isFresh(each));
  let next = 0;
  const worker = async () => {
    while (next < stale.length) {
      const { args, object, stamp, isa } = stale[next++];
      rmSync(`${object}.sha256`, { force: true });
      await promisify(execFile)(compiler.command, args, { maxBuffer: 1 << 26 }).catch((error) => {
        next = stale.length;
        throw Object.assign(error, { isa });
      });
      writeFileSync(`${object}.sha256`, stamp);
    }
  };
  const settled = await Promise.allSettled(Array.from({ length: availableParallelism() }, worker));
  const failed = settled.find(({ status }) => status === 'rejected');
  if (failed) throw failed.reason;
  return stale.length;
}

/** Compiles the kernels for every instruction set that the compiler knows; a compiler too old for one loses only that one. */
async function compileKernels(compiler, sources, flags) {
  const objects = [];
  const isas = [];
  let compiled = 0;
  for (const [isa, isaFlags] of Object.entries(instructionSets)) {
    const jobs = sources.map((source) => job(source, [...flags, ...isaFlags, `-DMAMBATUNE_ISA=${isa}`], isa));
    try {
      compiled += await compile(compiler, jobs);
    } catch (error) {
      if (isa === 'portable' || options.warnings) throw error;
      const reason =
        (error.stderr || error.message)
          .trim()
          .split('\n')
          .find((line) => line.includes('error')) ?? error.message;
      console.error(`mambatune: no ${isa} kernels: ${compiler.command} cannot compile them (${reason.trim()})`);
      continue;
    }
    isas.push(isa);
    objects.push(...jobs.map(({ object }) => object));
  }
  return { objects, isas, compiled };
}

/** Links under a temporary name; libstdc++ goes in statically where its archive is installed. */
function link(compiler, objects, output) {
  const attempts = process.platform === 'darwin' || options.sanitize ? [[]] : [['-static-libstdc++'], []];
  for (const [index, extra] of attempts.entries()) {
    try {
      const args = [...objects, ...extra, ...linkFlags(options), '-o', `${output}.new`];
      execFileSync(compiler.command, args, { stdio: 'pipe' });
      break;
    } catch (error) {
      if (index + 1 === attempts.length) throw error;
    }
  }
  renameSync(`${output}.new`, output);
}

async function buildAddon() {
  const compiler = findCompiler();
  if (!compiler) throw new Error('no C++ compiler found (looked for $CXX, c++, g++, clang++)');
  const started = performance.now();
  const output = join(outputFolder, 'native.node');
  const sources = [...filesOf('cpu', '.cc'), ...filesOf('binding', '.cc')];
  const kernels = sources.filter((source) => readFileSync(source, 'utf8').includes('MAMBATUNE_ISA {'));
  const flags = [...compileFlags(options), '-I', require('node-api-headers').include_dir];
  const { objects, isas, compiled } = await compileKernels(compiler, kernels, flags);
  const isaDefines = isas.map((isa) => `-DMAMBATUNE_HAS_${isa.toUpperCase()}`);
  const rest = sources
    .filter((source) => !kernels.includes(source))
    .map((source) => job(source, [...flags, ...isaDefines]));
  const total = compiled + (await compile(compiler, rest));
  if (total > 0 || !existsSync(output)) link(compiler, [...objects, ...rest.map(({ object }) => object)], output);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.error(`mambatune: native addon ready (${isas.join(', ')}; ${total} objects compiled in ${seconds} s)`);
}

async function buildCudaPlugin() {
  // device.cu holds the plugin's table: without it there is no plugin.
  const hasSources = existsSync(join(native, 'cuda', 'device.cu'));
  const nvcc = findNvcc();
  if (!hasSources || !nvcc) {
    if (!options.cuda) return;
    throw new Error(
      hasSources ? 'nvcc was not found ($NVCC, $CUDA_HOME, PATH)' : 'native/cuda/device.cu does not exist',
    );
  }
  const started = performance.now();
  const output = join(outputFolder, 'native_cuda.so');
  const jobs = filesOf('cuda', '.cu').map((source) => job(source, nvccCompileFlags));
  const compiled = await compile(nvcc, jobs);
  if (compiled > 0 || !existsSync(output)) {
    const objects = jobs.map(({ object }) => object);
    execFileSync(nvcc.command, [...nvccLinkFlags, ...objects, '-o', `${output}.new`], { stdio: 'pipe' });
    renameSync(`${output}.new`, output);
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.error(`mambatune: CUDA plugin ready (${compiled} objects compiled in ${seconds} s)`);
}

/** Runs one build step; a failure removes what the step would have replaced, and is told with its consequence. */
async function attempt(step, output, what, consequence, required) {
  try {
    await step();
  } catch (error) {
    rmSync(join(outputFolder, output), { force: true });
    const reason = [error.message, error.stderr].filter(Boolean).join('\n');
    console.error(`\n*** mambatune: ${what} could not be built: ${reason}\n*** ${consequence}\n`);
    if (required) process.exitCode = 1;
  }
}

function isPrebuilt() {
  try {
    return Boolean(require.resolve(`@mambatune/native-${target}/native.node`));
  } catch {
    return false;
  }
}

if (!isPrebuilt() || Object.values(options).some(Boolean)) {
  mkdirSync(join(outputFolder, 'objects'), { recursive: true });
  const withoutAddon =
    'Training will run on the `wasm` backend, many times slower.\n' +
    '*** Install a C++17 compiler (Debian/Ubuntu: apt-get install g++; macOS: xcode-select --install) and run: npm run build:native';
  await attempt(buildAddon, 'native.node', 'the native CPU kernels', withoutAddon, options.strict || options.cuda);
  const withoutCuda = 'Training will run on the CPU. Mend the CUDA toolkit and run: npm run build:cuda';
  const hasAddon = existsSync(join(outputFolder, 'native.node'));
  if (hasAddon && !options.sanitize)
    await attempt(buildCudaPlugin, 'native_cuda.so', 'the CUDA plugin', withoutCuda, options.cuda);
}
