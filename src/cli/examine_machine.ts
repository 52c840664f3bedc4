// SPDX-License-Identifier: Apache-2.0
/** The findings of `mambatune doctor`. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { arch, availableParallelism, cpus, freemem, release, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { getHFHubCachePath } from '@huggingface/hub';
import { DEVICE_INDEX, loadAddon, packageRoot } from '../backends/addon.ts';
import { BACKENDS, type BackendName, probeBackend, selectBackend } from '../backends/select.ts';
import { messageOf } from '../errors.ts';
import { readJsonFile } from '../files.ts';
import { isJsonObject } from '../json.ts';
import { formatBytes } from '../logging/format.ts';

/** What was found, or why it was not. */
export type Finding<T> = T | { problem: string };

export interface Findings {
  mambatune: string;
  node: string;
  platform: string;
  cpu: { model: string; processors: number };
  memory: { totalBytes: number; freeBytes: number };
  nativeAddon: Finding<{ path: string; device: Record<string, unknown> }>;
  /** The CUDA plugin, its device and libraries. */
  cuda: Finding<{ device: Record<string, unknown> }>;
  /** Best first. */
  backends: { name: BackendName; usable: boolean; reason: string | null }[];
  /** What `backend: auto` takes. */
  selected: Finding<{ backend: BackendName }>;
  compiler: Finding<{ command: string; version: string }>;
  hubCache: { path: string; exists: boolean };
  /** Environment variables that mambatune obeys and that are set; a token is not shown. */
  environment: Record<string, string>;
  /** Version of each dependency, null when it is not installed. */
  packages: Record<string, string | null>;
}

/** The compilers that native/build.mjs looks for. */
const COMPILERS = ['c++', 'g++', 'clang++'];
const VARIABLES = [
  ...[
    'MAMBATUNE_NATIVE',
    'MAMBATUNE_NUM_THREADS',
    'MAMBATUNE_DEBUG',
    'CXX',
    'CUDA_HOME',
    'CUDA_VISIBLE_DEVICES',
    'MAMBATUNE_CUDA_MEMORY_MIB',
    'MAMBATUNE_CUBLAS',
  ],
  ...['HF_HOME', 'HF_HUB_CACHE', 'HF_ENDPOINT', 'HF_HUB_OFFLINE', 'HF_TOKEN'],
];

/** Looks at everything, and starts the backend that `auto` takes. */
export async function examineMachine(): Promise<Findings> {
  const manifest = readJsonFile(join(packageRoot(), 'package.json'));
  const backends: Findings['backends'] = [];
  for (const name of BACKENDS) {
    const reason = await probeBackend(name);
    backends.push({ name, usable: reason === undefined, reason: reason ?? null });
  }
  return {
    mambatune: String(manifest.version),
    node: process.version,
    platform: `${process.platform} ${release()} ${arch()}`,
    cpu: { model: cpus()[0]?.model.trim() ?? 'unknown', processors: availableParallelism() },
    memory: { totalBytes: totalmem(), freeBytes: freemem() },
    nativeAddon: nativeAddon(),
    cuda: cuda(backends),
    backends,
    selected: await selectBackend().then(
      ({ name }) => ({ backend: name }),
      (error: unknown) => ({ problem: messageOf(error) }),
    ),
    compiler: await findCompiler(),
    hubCache: { path: getHFHubCachePath(), exists: existsSync(getHFHubCachePath()) },
    environment: Object.fromEntries(VARIABLES.flatMap(shownVariable)),
    packages: packageVersions(manifest),
  };
}

/** The findings as text. */
export function formatFindings(findings: Findings): string {
  const { cpu, memory, nativeAddon, cuda, backends, selected, compiler, hubCache, environment, packages } = findings;
  const facts = (device: Record<string, unknown>) =>
    Object.entries(device)
      .filter(([, value]) => !(Array.isArray(value) && value.length === 0))
      .map(([name, value]) => `${name} ${typeof value === 'string' ? value : JSON.stringify(value)}`)
      .join(', ');
  const rows: [string, string][] = [
    ['mambatune', findings.mambatune],
    ['node', findings.node],
    ['platform', findings.platform],
    ['processor', `${cpu.model}, ${cpu.processors} usable`],
    ['memory', `${formatBytes(memory.totalBytes)}, ${formatBytes(memory.freeBytes)} free`],
    ['native addon', 'problem' in nativeAddon ? `none: ${nativeAddon.problem}` : nativeAddon.path],
    ...('problem' in nativeAddon ? [] : [['', facts(nativeAddon.device)] as [string, string]]),
    ['cuda', 'problem' in cuda ? `none: ${cuda.problem}` : facts(cuda.device)],
    ...backends.map(({ name, reason }, index): [string, string] => [
      index === 0 ? 'backends' : '',
      `${name.padEnd(10)} ${reason === null ? 'usable' : `no: ${reason}`}`,
    ]),
    ['auto takes', 'problem' in selected ? `none: ${selected.problem}` : selected.backend],
    ['compiler', 'problem' in compiler ? `none: ${compiler.problem}` : `${compiler.command}: ${compiler.version}`],
    ['hub cache', `${hubCache.path}${hubCache.exists ? '' : ' (not there yet)'}`],
    ...namedRows('environment', environment),
    ...namedRows('packages', packages),
  ];
  return rows.map(([name, text]) => `${`${name}`.padEnd(13)} ${text}\n`).join('');
}

function namedRows(title: string, values: Record<string, string | null>): [string, string][] {
  return Object.entries(values).map(([name, value], index) => [
    index === 0 ? title : '',
    `${name} ${value ?? 'NOT INSTALLED'}`,
  ]);
}

function nativeAddon(): Findings['nativeAddon'] {
  const { addon, path, reasons } = loadAddon();
  if (!addon || path === undefined) {
    return { problem: `${reasons.join('; ')}. Build it with: npm run build:native (it needs a C++ compiler)` };
  }
  return { path, device: deviceFacts(addon.describe(DEVICE_INDEX.native)) };
}

function cuda(backends: Findings['backends']): Findings['cuda'] {
  const { usable, reason } = backends.find(({ name }) => name === 'cuda') ?? { usable: false, reason: null };
  const { addon } = loadAddon();
  if (!usable || !addon) return { problem: reason ?? 'not usable' };
  return { device: deviceFacts(addon.describe(DEVICE_INDEX.cuda)) };
}

function deviceFacts(json: string): Record<string, unknown> {
  const value: unknown = JSON.parse(json);
  return isJsonObject(value) ? value : {};
}

async function findCompiler(): Promise<Findings['compiler']> {
  const candidates = [process.env.CXX, ...COMPILERS].filter((name): name is string => Boolean(name));
  for (const command of candidates) {
    try {
      const { stdout } = await promisify(execFile)(command, ['--version']);
      return { command, version: stdout.split('\n')[0] ?? '' };
    } catch {
      // The next candidate may be there.
    }
  }
  return { problem: `found none of ${candidates.join(', ')}; install one to build the native addon` };
}

function shownVariable(name: string): [string, string][] {
  const value = process.env[name];
  if (value === undefined || value === '') return [];
  return [[name, name === 'HF_TOKEN' ? '(set)' : value]];
}

function packageVersions({ dependencies, optionalDependencies }: Record<string, unknown>): Findings['packages'] {
  const names = [dependencies, optionalDependencies].flatMap((group) =>
    isJsonObject(group) ? Object.keys(group) : [],
  );
  return Object.fromEntries(names.map((name) => [name, installedVersion(name)]));
}

/** From the nearest node_modules above the package, as Node looks packages up. */
function installedVersion(name: string): string | null {
  for (let folder = packageRoot(); ; folder = dirname(folder)) {
    const path = join(folder, 'node_modules', name, 'package.json');
    if (existsSync(path)) return String(readJsonFile(path).version);
    if (dirname(folder) === folder) return null;
  }
}
