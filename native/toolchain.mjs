// SPDX-License-Identifier: Apache-2.0
// Which compilers this machine has, and the flags the native code is compiled with.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';

/** @typedef {{ command: string, version: string }} Compiler */

/** @returns {Compiler | undefined} the first of the commands that answers `--version` */
function firstWorking(commands) {
  for (const command of commands.filter(Boolean)) {
    try {
      return {
        command,
        version: execFileSync(command, ['--version'], { stdio: ['ignore', 'pipe', 'ignore'] }).toString(),
      };
    } catch {
      // The next one may be there.
    }
  }
  return undefined;
}

/** $CXX, c++, g++ or clang++. */
export const findCompiler = () => firstWorking([process.env.CXX, 'c++', 'g++', 'clang++']);

/** $NVCC, the toolkit of $CUDA_HOME, nvcc on the PATH, or the toolkit's usual folder. */
export const findNvcc = () =>
  firstWorking([
    process.env.NVCC,
    process.env.CUDA_HOME && join(process.env.CUDA_HOME, 'bin', 'nvcc'),
    'nvcc',
    '/usr/local/cuda/bin/nvcc',
  ]);

const sanitizers = '-fsanitize=address,undefined';

/** What GCC 12 says about its own AVX-512 headers; clang does not know the second. */
const gccHeaderWarnings = ['-Wno-uninitialized', '-Wno-maybe-uninitialized', '-Wno-unknown-warning-option'];

/** Flags of every C++ compile. */
export const compileFlags = ({ sanitize, warnings }) => [
  '-std=c++17',
  '-fPIC',
  '-fvisibility=hidden',
  '-ffp-contract=fast',
  '-fno-math-errno',
  '-fno-trapping-math',
  ...(sanitize ? ['-O1', '-g', '-fno-omit-frame-pointer', sanitizers, '-fno-sanitize-recover=undefined'] : ['-O3']),
  ...(warnings ? ['-Wall', '-Wextra', ...gccHeaderWarnings, '-Werror'] : ['-w']),
];

/** Flags of the shared library's link. */
export const linkFlags = ({ sanitize }) => [
  '-shared',
  ...(sanitize ? [sanitizers] : []),
  ...(process.platform === 'darwin'
    ? ['-undefined', 'dynamic_lookup']
    : ['-static-libgcc', '-ldl', '-pthread', '-Wl,-z,nodelete']),
];

/** The instruction sets that kernels are compiled for, with their flags; the addon picks one at run time. */
export const instructionSets =
  process.arch === 'x64'
    ? {
        avx512: '-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mavx2 -mf16c -mprefer-vector-width=512'.split(' '),
        avx2: ['-mavx2', '-mfma', '-mf16c'],
        portable: [],
      }
    : { portable: [] };

const gencode = ['sm_80', 'sm_90a', 'compute_90'].flatMap((code) => [
  '-gencode',
  `arch=compute_${code.split('_')[1]},code=${code}`,
]);

/** A100 and H100 as machine code, anything newer from PTX. */
export const nvccCompileFlags = [
  '-std=c++17',
  '-O3',
  '--threads',
  '2',
  '-Xcompiler',
  '-fPIC,-fvisibility=hidden',
  ...gencode,
];

/** The runtime goes in statically; what is still undefined then is an error now rather than when the plugin is opened. */
export const nvccLinkFlags = ['-shared', '-cudart', 'static', '-Xlinker', '--no-undefined', ...gencode, '-ldl'];
