// SPDX-License-Identifier: Apache-2.0
// Builds the native addon with nothing but a C++ compiler:  node native/build.mjs [--force] [--strict] [--sanitize]
//
// Kernel sources (those that mention MAMBATUNE_ISA) are compiled once per instruction set; the addon picks one at run time.
// As npm's install step it never fails: without a working compiler it says so, and the `wasm` backend runs instead.
//   --force     rebuild everything        --strict    exit 1 when the addon could not be built
//   --sanitize  AddressSanitizer and UndefinedBehaviorSanitizer, into build/sanitize
import { execFile, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const flags = new Set(process.argv.slice(2));
const sanitize = flags.has('--sanitize');
const outputFolder = join(root, 'build', sanitize ? 'sanitize' : `${process.platform}-${process.arch}`);

const commonFlags = [
  '-std=c++17', '-fPIC', '-Wall', '-Wextra', '-Wno-maybe-uninitialized', '-fvisibility=hidden', '-ffp-contract=fast', '-fno-math-errno', '-fno-trapping-math',
  ...(sanitize ? ['-O1', '-g', '-fno-omit-frame-pointer', '-fsanitize=address,undefined', '-fno-sanitize-recover=undefined'] : ['-O3']),
];
const isaFlags =
  process.arch === 'x64'
    ? {
        avx512: ['-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl', '-mfma', '-mavx2', '-mf16c', '-mprefer-vector-width=512'],
        avx2: ['-mavx2', '-mfma', '-mf16c'],
        portable: [],
      }
    : { portable: [] };

function findCompiler() {
  for (const candidate of [process.env.CXX, 'c++', 'g++', 'clang++'].filter(Boolean)) {
    try {
      return { command: candidate, version: execFileSync(candidate, ['--version'], { stdio: ['ignore', 'pipe', 'ignore'] }).toString() };
    } catch {}
  }
  return undefined;
}

/** Objects to compile: one per source, or one per source and instruction set for kernels. */
function compileJobs() {
  const include = [join(root, 'native', 'include'), createRequire(import.meta.url)('node-api-headers').include_dir];
  const jobs = [];
  for (const folder of ['cpu', 'binding']) {
    for (const file of readdirSync(join(root, 'native', folder)).filter((name) => name.endsWith('.cc')).sort()) {
      const source = join(root, 'native', folder, file);
      const variants = readFileSync(source, 'utf8').includes('MAMBATUNE_ISA') ? Object.entries(isaFlags) : [['', []]];
      for (const [isa, extra] of variants) {
        const args = [...commonFlags, ...extra, ...(isa ? [`-DMAMBATUNE_ISA=${isa}`] : []), ...include.flatMap((path) => ['-I', path]), '-c', source];
        jobs.push({ source, object: join(outputFolder, 'objects', `${folder}-${basename(file, '.cc')}${isa && `-${isa}`}.o`), args });
      }
    }
  }
  return jobs;
}

/** Everything an object's content depends on: the command and all native sources and headers it could include. */
function digest(compiler, job, headers) {
  return createHash('sha256').update(compiler.version).update(JSON.stringify(job.args)).update(readFileSync(job.source)).update(headers).digest('hex');
}

async function compile(compiler, jobs) {
  const headers = ['include', 'cpu', 'binding']
    .flatMap((folder) => readdirSync(join(root, 'native', folder)).filter((name) => name.endsWith('.h')).map((name) => join(root, 'native', folder, name)))
    .sort()
    .map((path) => readFileSync(path, 'utf8'))
    .join('\n');
  const stale = jobs
    .map((job) => ({ ...job, stamp: digest(compiler, job, headers) }))
    .filter((job) => flags.has('--force') || !existsSync(job.object) || !existsSync(`${job.object}.sha256`) || readFileSync(`${job.object}.sha256`, 'utf8') !== job.stamp);
  let next = 0;
  const worker = async () => {
    while (next < stale.length) {
      const job = stale[next++];
      const { stderr } = await promisify(execFile)(compiler.command, [...job.args, '-o', job.object], { maxBuffer: 1 << 26 });
      if (stderr) process.stderr.write(stderr);
      writeFileSync(`${job.object}.sha256`, job.stamp);
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  return stale.length;
}

function link(compiler, objects, output) {
  const platformFlags = process.platform === 'darwin' ? ['-undefined', 'dynamic_lookup'] : ['-static-libgcc', '-ldl', '-pthread'];
  const attempts = process.platform === 'darwin' || sanitize ? [[]] : [['-static-libstdc++'], []];
  for (const [index, extra] of attempts.entries()) {
    try {
      execFileSync(compiler.command, ['-shared', ...(sanitize ? ['-fsanitize=address,undefined'] : []), '-o', `${output}.new`, ...objects, ...extra, ...platformFlags], {
        stdio: ['ignore', 'inherit', index + 1 < attempts.length ? 'ignore' : 'inherit'],
      });
      renameSync(`${output}.new`, output);
      return;
    } catch (error) {
      if (index + 1 === attempts.length) throw error;
    }
  }
}

async function main() {
  const output = join(outputFolder, 'native.node');
  const compiler = findCompiler();
  if (!compiler) throw new Error('no C++ compiler found (looked for $CXX, c++, g++, clang++)');
  mkdirSync(join(outputFolder, 'objects'), { recursive: true });
  const started = Date.now();
  const jobs = compileJobs();
  const compiled = await compile(compiler, jobs);
  if (compiled > 0 || !existsSync(output)) link(compiler, jobs.map((job) => job.object), output);
  console.error(`mambatune: native addon ready (${compiled} of ${jobs.length} objects compiled in ${((Date.now() - started) / 1000).toFixed(1)} s)`);
}

try {
  await main();
} catch (error) {
  rmSync(join(outputFolder, 'native.node'), { force: true });
  const reason = error.stderr ? `${error.message}\n${error.stderr}` : error.message;
  console.error(
    `\n*** mambatune: the native CPU kernels could not be built: ${reason}\n*** Training will run on the \`wasm\` backend, many times slower.` +
      '\n*** Install a C++17 compiler (Debian/Ubuntu: apt-get install g++; macOS: xcode-select --install) and run: npm run build:native\n',
  );
  process.exitCode = flags.has('--strict') ? 1 : 0;
}
