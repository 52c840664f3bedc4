// SPDX-License-Identifier: Apache-2.0
/** One adapter out of several of the same base; answers to add_weighted_adapter of peft's LoraModel. */
import { Matrix as Dense } from 'ml-matrix';
import { refuseFilledFolder } from '../src/checkpoint/save_checkpoint.ts';
import { ConfigError, UserError } from '../src/errors.ts';
import { createRandom, randomStreams } from '../src/random.ts';
import {
  type AdapterFolder,
  type Matrix,
  type ModuleAdapter,
  readAdapterFolder,
  refuseMoreThanUpdates,
  refuseNonFinite,
} from './adapter_folder.ts';
import { type CombinationType, type MajoritySignMethod, PRUNING_TYPES } from './combine_types.ts';
import type { LoraConfigFields } from './lora_config.ts';
import type { AdapterTensor } from './peft_files.ts';
import { writeAdapter } from './peft_files.ts';
import { productSvd } from './product_svd.ts';
import { disjointMean, pruneAtRandom, pruneByMagnitude, weightedSum } from './task_vectors.ts';

export interface CombineOptions {
  /** Default `svd`. A single adapter is combined linearly in any case, as in peft. */
  combinationType?: CombinationType;
  /** Rank of the result of `svd`; default the largest of the adapters'. */
  svdRank?: number;
  /** Share of the values that pruning keeps, above 0 and up to 1; required where there is pruning. */
  density?: number;
  /** Default `total`. */
  majoritySignMethod?: MajoritySignMethod;
  /** Of what `dare_linear` and `dare_ties` keep. Default 0. */
  seed?: number;
  /** The base model of all of them, by the name to record; says that adapters that name it differently are of one base. */
  baseModelNameOrPath?: string;
}

export interface CombineResult {
  combinationType: CombinationType;
  adapters: { adapter: string; weight: number }[];
  r: number;
  modules: string[];
}

type Required = { type: CombinationType; density: number; method: MajoritySignMethod; seed: number };

/**
 * Writes the adapter sum of weights[i] * adapters[i]. Its scaling is 1 (lora_alpha = r, no rslora).
 *
 * @param folders adapters in peft's format
 * @param weights one each; may be negative
 * @param output must be empty or absent
 * @throws ConfigError for options that do not go together; UserError when adapters are damaged, of different bases, or of shapes or
 *   options that cannot be combined, or the output cannot be written
 */
export async function combineAdapters(
  folders: readonly string[],
  weights: readonly number[],
  output: string,
  options: CombineOptions = {},
): Promise<CombineResult> {
  const type = folders.length === 1 ? 'linear' : (options.combinationType ?? 'svd');
  checkOptions(folders, weights, type, options);
  refuseFilledFolder(output);
  const adapters = folders.map(readAdapterFolder);
  for (const adapter of adapters) {
    refuseMoreThanUpdates(adapter, 'that cannot be combined');
    refuseNonFinite(adapter);
  }
  const base = commonBase(adapters, options.baseModelNameOrPath);
  const r = resultRank(adapters, type, options.svdRank);
  const settings: Required = {
    type,
    density: options.density ?? 1,
    method: options.majoritySignMethod ?? 'total',
    seed: options.seed ?? 0,
  };
  const names = [...new Set(adapters.flatMap((adapter) => [...adapter.modules.keys()]))];
  const tensors = new Map<string, AdapterTensor>();
  for (const [index, name] of names.entries()) {
    const parts = adapters.flatMap((adapter, i) => {
      const module = adapter.modules.get(name);
      return module ? [{ folder: adapter.folder, module, weight: weights[i] as number }] : [];
    });
    checkShapes(name, parts);
    const { A, B } = combineModule(parts, r, settings, index);
    const [first] = parts;
    const isEmbedding = first?.module.kind === 'embedding';
    const prefix = `base_model.model.${name}`;
    tensors.set(isEmbedding ? `${prefix}.lora_embedding_A` : `${prefix}.lora_A.weight`, tensorOf(A));
    tensors.set(isEmbedding ? `${prefix}.lora_embedding_B` : `${prefix}.lora_B.weight`, tensorOf(B));
  }
  const config = (adapters[0] as AdapterFolder).config.with({
    r,
    loraAlpha: r,
    useRslora: false,
    rankPattern: {},
    alphaPattern: {},
    ...jointTargets(adapters, names),
    baseModelNameOrPath: base.name,
  });
  await writeAdapter(output, config, tensors, base.fingerprint);
  const named = folders.map((adapter, i) => ({ adapter, weight: weights[i] as number }));
  return { combinationType: type, adapters: named, r, modules: names };
}

function checkOptions(
  folders: readonly string[],
  weights: readonly number[],
  type: CombinationType,
  { density, svdRank, majoritySignMethod, seed }: CombineOptions,
): void {
  const fail = (message: string): never => {
    throw new ConfigError(`combine: ${message}.`);
  };
  if (folders.length === 0) fail('found no adapters; expected at least one');
  if (weights.length !== folders.length) fail(`found ${weights.length} weights for ${folders.length} adapters`);
  const bad = weights.find((weight) => !Number.isFinite(weight));
  if (bad !== undefined) fail(`the weight ${bad} is no finite number`);
  const prunes = PRUNING_TYPES.includes(type);
  if (prunes && density === undefined) fail(`${type} needs a density, the share of the values to keep`);
  if (!prunes && density !== undefined) fail(`${type} takes no density; ${PRUNING_TYPES.join(', ')} do`);
  if (density !== undefined && !(density > 0 && density <= 1))
    fail(`density is ${density}, expected above 0 and up to 1`);
  if (svdRank !== undefined && type !== 'svd') fail(`${type} takes no svd rank`);
  if (svdRank !== undefined && !(Number.isInteger(svdRank) && svdRank >= 1))
    fail(`svd rank is ${svdRank}, expected from 1`);
  if (majoritySignMethod !== undefined && type !== 'ties' && type !== 'dare_ties')
    fail(`${type} takes no majority sign method; ties and dare_ties do`);
  if (seed !== undefined && !type.startsWith('dare')) fail(`${type} draws nothing at random and takes no seed`);
}

/** @throws UserError when they are of different bases, as far as fingerprints or else names say */
function commonBase(
  adapters: readonly AdapterFolder[],
  given: string | undefined,
): { name: string | null; fingerprint: string | null } {
  const [first] = adapters as [AdapterFolder];
  const known = adapters.filter(({ fingerprint }) => fingerprint !== null);
  const odd = known.find(({ fingerprint }) => fingerprint !== known[0]?.fingerprint);
  if (odd) throw differentBases(known[0] as AdapterFolder, odd, 'the weights that they were trained on differ');
  const name = first.config.baseModelNameOrPath;
  const other = adapters.find(({ config }) => config.baseModelNameOrPath !== name);
  if (other && given === undefined && known.length < adapters.length) {
    const names = `${JSON.stringify(name)} and ${JSON.stringify(other.config.baseModelNameOrPath)}`;
    throw differentBases(first, other, `they name ${names} as their base; give the base if these are one and the same`);
  }
  return { name: given ?? name, fingerprint: known[0]?.fingerprint ?? null };
}

function differentBases(one: AdapterFolder, other: AdapterFolder, reason: string): UserError {
  return new UserError(`${one.folder} and ${other.folder} are adapters of different base models: ${reason}.`);
}

function resultRank(adapters: readonly AdapterFolder[], type: CombinationType, svdRank: number | undefined): number {
  const ranks = adapters.map(({ modules }) => Math.max(...[...modules.values()].map(({ rank }) => rank)));
  if (type === 'cat') return ranks.reduce((sum, rank) => sum + rank, 0);
  if (type === 'svd') return svdRank ?? Math.max(...ranks);
  const [rank = 0] = ranks;
  if (ranks.every((other) => other === rank)) return rank;
  throw new UserError(
    `${type} needs adapters of one rank, found ${ranks.join(', ')} (${adapters.map(({ folder }) => folder).join(', ')}); cat and svd take any.`,
  );
}

interface Part {
  folder: string;
  module: ModuleAdapter;
  weight: number;
}

function checkShapes(name: string, parts: readonly Part[]): void {
  const [first] = parts as [Part];
  const shapeOf = ({ module: { A, B } }: Part) => `[${B.shape[0]}, ${A.shape[1]}]`;
  const other = parts.find((part) => shapeOf(part) !== shapeOf(first) || part.module.kind !== first.module.kind);
  if (!other) return;
  throw new UserError(
    `${first.folder} and ${other.folder} are adapters of different base models: ${name} is ${shapeOf(first)} in one and ${shapeOf(other)} in the other.`,
  );
}

/** The result's matrices, of rank r; what a module's own rank leaves is zero. */
function combineModule(parts: readonly Part[], r: number, settings: Required, index: number): { A: Dense; B: Dense } {
  const [first] = parts as [Part];
  const A = Dense.zeros(r, first.module.A.shape[1]);
  const B = Dense.zeros(first.module.B.shape[0], r);
  if (settings.type === 'cat' || settings.type === 'svd') {
    const joined = concatenated(parts);
    if (settings.type === 'svd') {
      const { US, Vt } = productSvd(joined.B, joined.A, r);
      return { A: Vt, B: US };
    }
    return { A: A.setSubMatrix(joined.A, 0, 0), B: B.setSubMatrix(joined.B, 0, 0) };
  }
  const ranks = new Set(parts.map(({ module }) => module.rank));
  if (ranks.size > 1) {
    const found = parts.map(({ folder, module }) => `${module.rank} in ${folder}`).join(', ');
    throw new UserError(`${settings.type} needs one rank in each module; ${first.module.name} has ${found}.`);
  }
  const factors = parts.map(({ module, weight }) => Math.sqrt(Math.abs(weight * module.scaling)));
  const signed = parts.map(({ module, weight }, i) => (weight * module.scaling < 0 ? -1 : 1) * (factors[i] as number));
  const mixed = (side: 'A' | 'B', weights: readonly number[]) => {
    const shape = first.module[side].shape;
    const values = parts.map(({ module }) => Float64Array.from(module[side].data));
    return dense(shape, mix(values, weights, settings, 2 * index + Number(side === 'B'), parts.length));
  };
  // The sign of a weight goes to one side alone, or it would cancel.
  return { A: A.setSubMatrix(mixed('A', signed), 0, 0), B: B.setSubMatrix(mixed('B', factors), 0, 0) };
}

function mix(
  tensors: readonly Float64Array[],
  weights: readonly number[],
  { type, density, method, seed }: Required,
  tensorIndex: number,
  adapterCount: number,
): Float64Array {
  const sparse = tensors.map((tensor, i) => {
    if (type === 'ties' || type === 'magnitude_prune') return pruneByMagnitude(tensor, density);
    if (type !== 'dare_linear' && type !== 'dare_ties') return tensor;
    const substream = tensorIndex * adapterCount + i;
    return pruneAtRandom(tensor, density, createRandom({ seed, stream: randomStreams.pruning, substream }));
  });
  return type === 'ties' || type === 'dare_ties' ? disjointMean(sparse, weights, method) : weightedSum(sparse, weights);
}

/** [B1 B2 …] and [w1 s1 A1; w2 s2 A2; …], whose product is the exact sum. */
function concatenated(parts: readonly Part[]): { A: Dense; B: Dense } {
  const rank = parts.reduce((sum, { module }) => sum + module.rank, 0);
  const [first] = parts as [Part];
  const A = Dense.zeros(rank, first.module.A.shape[1]);
  const B = Dense.zeros(first.module.B.shape[0], rank);
  let at = 0;
  for (const { module, weight } of parts) {
    A.setSubMatrix(dense(module.A.shape, Float64Array.from(module.A.data)).mul(weight * module.scaling), at, 0);
    B.setSubMatrix(dense(module.B.shape, Float64Array.from(module.B.data)), 0, at);
    at += module.rank;
  }
  return { A, B };
}

function dense([rows, columns]: Matrix['shape'], values: Float64Array): Dense {
  return Dense.from1DArray(rows, columns, values);
}

function tensorOf(matrix: Dense): AdapterTensor {
  return { shape: [matrix.rows, matrix.columns], dataSync: () => Float32Array.from(matrix.to1DArray()) };
}

/**
 * What chooses the modules of all adapters: what all of them say, or as in peft all names, or all expressions as alternatives; the
 * modules in full where there is more to it.
 */
function jointTargets(adapters: readonly AdapterFolder[], modules: readonly string[]): Partial<LoraConfigFields> {
  const choices = adapters.map(({ config: { targetModules, excludeModules, layersToTransform, layersPattern } }) => {
    return { targetModules, excludeModules, layersToTransform, layersPattern };
  });
  const [first] = choices as [(typeof choices)[number]];
  if (choices.every((choice) => JSON.stringify(choice) === JSON.stringify(first))) return first;
  const plain = { excludeModules: null, layersToTransform: null, layersPattern: null };
  const targets = choices.map(({ targetModules }) => targetModules);
  const isPlain = choices.every(
    ({ excludeModules, layersToTransform }) => !excludeModules && layersToTransform === null,
  );
  if (isPlain && targets.every((target) => typeof target !== 'string')) {
    return { ...plain, targetModules: [...new Set((targets as readonly (readonly string[])[]).flat())] };
  }
  if (isPlain && targets.every((target) => typeof target === 'string' && target !== 'all-linear')) {
    return { ...plain, targetModules: targets.map((target) => `(${target})`).join('|') };
  }
  return { ...plain, targetModules: [...modules] };
}
