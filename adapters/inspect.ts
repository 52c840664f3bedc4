// SPDX-License-Identifier: Apache-2.0
/** What an adapter folder holds, and what is wrong with it. */
import type { StreamedModel } from '../src/model/streamed_model.ts';
import { type AdapterFolder, type Matrix, type ModuleAdapter, readAdapterFolder } from './adapter_folder.ts';
import { openDiskAdapter } from './disk_adapter.ts';
import type { LoraConfig } from './lora_config.ts';
import { peftFault } from './peft_compatible.ts';

export interface InspectedModule {
  module: string;
  rank: number;
  scaling: number;
  /** Frobenius norms. */
  normA: number;
  normB: number;
  /** Of the update, scaling B A. */
  normDelta: number;
  /** normDelta as a share of the base weight's norm; null without a base model. */
  relative: number | null;
}

export interface AdapterReport {
  adapter: string;
  baseModel: string | null;
  /** Of the weights that it was trained on; null when the adapter does not say. */
  baseFingerprint: string | null;
  /** Whether that is the given base model's; null when there is nothing to compare. */
  baseMatches: boolean | null;
  r: number;
  loraAlpha: number;
  useRslora: boolean;
  targetModules: readonly string[] | string;
  /** Ids of the tokens whose rows of the embeddings it holds. */
  trainableTokenIndices: LoraConfig['trainableTokenIndices'];
  parameters: number;
  modules: InspectedModule[];
  /** Tensors besides lora_A and lora_B. */
  otherTensors: string[];
  /** Tensors that are all zero: their module's update is zero. */
  dead: string[];
  /** Tensors that hold NaN or infinity. */
  notFinite: string[];
  /** What peft cannot use as it is on Mamba, by kind of module. */
  peft: { module: string; count: number; problem: string }[];
}

/**
 * @param base the model to compare with: whether the adapter fits it, fingerprints, relative norms
 * @throws UserError when files are missing or damaged, or the adapter does not fit the base
 */
export function inspectAdapter(folder: string, base: StreamedModel | null = null): AdapterReport {
  const adapter = readAdapterFolder(folder);
  const notFinite = tensorsOf(adapter).filter(([, data]) => !data.every(Number.isFinite));
  if (base && notFinite.length === 0) openDiskAdapter(folder, base);
  const { config, fingerprint, modules } = adapter;
  return {
    adapter: folder,
    baseModel: config.baseModelNameOrPath,
    baseFingerprint: fingerprint,
    baseMatches: base && fingerprint !== null ? base.source.fingerprint === fingerprint : null,
    r: config.r,
    loraAlpha: config.loraAlpha,
    useRslora: config.useRslora,
    targetModules: config.targetModules,
    trainableTokenIndices: config.trainableTokenIndices,
    parameters: tensorsOf(adapter).reduce((sum, [, data]) => sum + data.length, 0),
    modules: [...modules.values()].map((module) => inspectModule(module, base)),
    otherTensors: [...adapter.others.keys()],
    dead: tensorsOf(adapter).flatMap(([name, data]) => (data.every((value) => value === 0) ? [name] : [])),
    notFinite: notFinite.map(([name]) => name),
    peft: peftProblems([...modules.keys()]),
  };
}

function tensorsOf({ modules, others }: AdapterFolder): [name: string, data: Float32Array][] {
  const matrices = [...modules.values()].flatMap(({ kind, name, A, B }): [string, Float32Array][] => {
    const prefix = kind === 'embedding' ? 'lora_embedding_' : 'lora_';
    return [
      [`${name}.${prefix}A`, A.data],
      [`${name}.${prefix}B`, B.data],
    ];
  });
  return [...matrices, ...others];
}

function inspectModule(module: ModuleAdapter, base: StreamedModel | null): InspectedModule {
  const { name, rank, scaling, A, B } = module;
  const normDelta = Math.abs(scaling) * Math.sqrt(Math.max(0, squaredProductNorm(A, B)));
  const weight = base?.parameters.get(`${name}.weight`);
  return {
    module: name,
    rank,
    scaling,
    normA: norm(A.data),
    normB: norm(B.data),
    normDelta,
    relative: weight ? normDelta / norm(weight.dataSync()) : null,
  };
}

function norm(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}

/** |B A|², the trace of (Bᵀ B)(A Aᵀ): the product is never formed. */
function squaredProductNorm(A: Matrix, B: Matrix): number {
  const rank = A.shape[0];
  let trace = 0;
  for (let i = 0; i < rank; i++) {
    for (let j = 0; j < rank; j++) trace += dotOfRows(A, i, j) * dotOfColumns(B, i, j);
  }
  return trace;
}

function dotOfRows({ shape: [, columns], data }: Matrix, i: number, j: number): number {
  let sum = 0;
  for (let k = 0; k < columns; k++) sum += (data[i * columns + k] as number) * (data[j * columns + k] as number);
  return sum;
}

function dotOfColumns({ shape: [rows, columns], data }: Matrix, i: number, j: number): number {
  let sum = 0;
  for (let k = 0; k < rows; k++) sum += (data[k * columns + i] as number) * (data[k * columns + j] as number);
  return sum;
}

function peftProblems(names: readonly string[]): AdapterReport['peft'] {
  const counts = new Map<string, { count: number; problem: string }>();
  for (const name of names) {
    const problem = peftFault(name);
    const kind = name.split('.').at(-1) as string;
    if (problem !== undefined) counts.set(kind, { count: (counts.get(kind)?.count ?? 0) + 1, problem });
  }
  return Array.from(counts, ([module, found]) => ({ module, ...found }));
}
