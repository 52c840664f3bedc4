// SPDX-License-Identifier: Apache-2.0
/**
 * Merges an adapter folder into a model folder without loading either whole, reads back what was written, and compares its logits with
 * those of base and adapter: the receipt.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { CheckpointTensor, FloatDtype } from '../src/checkpoint/save_checkpoint.ts';
import { FLOAT_DTYPES, refuseFilledFolder, saveCheckpoint } from '../src/checkpoint/save_checkpoint.ts';
import { rowChunks } from '../src/checkpoint/tensor_source.ts';
import { UserError } from '../src/errors.ts';
import { hashFolder, replaceFolderAtomic } from '../src/files.ts';
import { disposeLora, type EmbeddingModule, type Module } from '../src/model/modules.ts';
import { EMBEDDING, HEAD, readFinite } from '../src/model/parameters.ts';
import type { AttachAdapter, LayerPart, StreamedModel } from '../src/model/streamed_model.ts';
import { attachedEmbedding, openStreamedModel, streamedLogits } from '../src/model/streamed_model.ts';
import { openDiskAdapter } from './disk_adapter.ts';
import { compareLogits, type LogitComparison } from './logit_comparison.ts';
import { type HeadPlan, mergedValues, planHead } from './merge.ts';
import { checkBiasCanMerge, mergedRows } from './merged_weight.ts';
import { exportPlan } from './peft_compatible.ts';
import { writeAdapter } from './peft_files.ts';
import type { TiedPolicy } from './tied_policy.ts';

type TypedTensor = CheckpointTensor & { dtype: FloatDtype };

export const RECEIPT_FILE = 'merge_receipt.json';

/** Largest difference allowed, as a share of the largest logit: float32 rounds nothing but the sum, the others every weight. */
export const DEFAULT_TOLERANCES: Readonly<Record<FloatDtype, number>> = { F32: 1e-4, F16: 1e-2, BF16: 5e-2 };

/** What the logits are compared on. */
export interface Probe {
  /** Where the ids come from, for the receipt. */
  source: string;
  /** One text. */
  inputIds: readonly number[];
}

export interface MergeAdapterOptions {
  /** Type of the written weights; default each tensor's own in the base (float32 for float64). */
  dtype?: FloatDtype;
  /** Bytes of a safetensors file before the next shard begins. Default 5e9. */
  maxShardSize?: number;
  /** Default `untie`. */
  tiedEmbeddings?: TiedPolicy;
  /** Largest difference allowed, as a share of the largest logit. Default by the coarsest type that is written. */
  tolerance?: number;
  /** Files to copy beside the weights (the tokenizer's). */
  extraFiles?: readonly string[];
  /**
   * Write `model/`, with everything merged that peft refuses or misapplies on Mamba, and `adapter/`, with the rest for peft, instead of
   * one merged model. Default false.
   */
  peftCompatible?: boolean;
}

/** merge_receipt.json. */
export interface MergeReceipt extends LogitComparison {
  base: { name: string | null; revision: string | null; sha256: Record<string, string> };
  adapter: { folder: string; sha256: Record<string, string> };
  /** Whether the adapter was made for this base, as far as it says: by the base's fingerprint. */
  base_matches_adapter: boolean | null;
  result: { dtypes: FloatDtype[]; model_sha256: Record<string, string>; adapter_sha256?: Record<string, string> };
  tied_embeddings: {
    base_is_tied: boolean;
    policy: TiedPolicy;
    head: 'unchanged' | 'untied' | 'changed with the embeddings';
  };
  merged_modules: string[];
  /** Ids of the tokens whose rows of the embeddings (and of a head that is tied to them) were merged. */
  merged_tokens: number[];
  /** Left in an adapter for peft; empty without peftCompatible. */
  adapter_modules: string[];
  probe: { source: string; tokens: number };
  /** max_abs_logit_difference / largest_logit. */
  relative_difference: number;
  tolerance: number;
  /** Difference to base and adapter where the policy changes the head on purpose; the others compare with the head changed as well. */
  max_abs_difference_to_untied?: number;
}

/**
 * Writes the merged model and its receipt, `merge_receipt.json`, or nothing.
 *
 * @param base stays the caller's to close
 * @param adapter folder in peft's format
 * @param output must be empty or absent
 * @throws UserError when the output cannot be written, the adapter does not fit, or the written model computes something else than base
 *   and adapter; ConfigError when the policy refuses
 */
export async function mergeAdapter(
  base: StreamedModel,
  adapter: string,
  output: string,
  probe: Probe,
  options: MergeAdapterOptions = {},
): Promise<MergeReceipt> {
  refuseFilledFolder(output);
  const disk = openDiskAdapter(adapter, base);
  const { merged, kept } = options.peftCompatible ? exportPlan(disk, base) : { merged: disk.targets, kept: null };
  const adapted = disk.base;
  for (const name of merged) checkBiasCanMerge(adapted.modules.get(name) as Module, disk.config.loraBias);
  const plan = planHead(adapted.config, merged, options.tiedEmbeddings);
  const { tensors, close } = mergedTensors(adapted, disk.attachOnly(merged), plan, options.dtype);
  const dtypes = [...new Set(tensors.map(({ dtype }) => dtype))];
  const { vocabSize } = base.config;
  const logits = (adaptTiedHead: boolean) =>
    streamedLogits(adapted, probe.inputIds, { attach: disk.attach, adaptTiedHead });
  const wanted = logits(plan.adaptsTiedHead);
  let receipt: MergeReceipt | undefined;
  await replaceFolderAtomic(output, async (temporary) => {
    const modelFolder = kept ? join(temporary, 'model') : temporary;
    const adapterFolder = kept && join(temporary, 'adapter');
    await writeParts(base, modelFolder, plan, tensors, options).finally(close);
    if (kept && adapterFolder) {
      const config = kept.config.with({ baseModelNameOrPath: join(output, 'model') });
      await writeAdapter(adapterFolder, config, kept.tensors, null);
    }
    const comparison = compareLogits(wanted, logitsOfWritten(modelFolder, adapterFolder, probe), vocabSize);
    receipt = {
      ...comparison,
      ...verdict(comparison, dtypes, options.tolerance),
      ...(plan.adaptsTiedHead && {
        max_abs_difference_to_untied: compareLogits(logits(false), wanted, vocabSize).max_abs_logit_difference,
      }),
      tied_embeddings: headFacts(base, adapted, plan, options.tiedEmbeddings),
      merged_modules: [...merged],
      merged_tokens: [...disk.tokens],
      adapter_modules: kept?.targets ?? [],
      probe: { source: probe.source, tokens: probe.inputIds.length },
      base: {
        name: base.source.name,
        revision: base.source.revision,
        sha256: await hashFolder(base.source.folder),
      },
      adapter: { folder: adapter, sha256: await hashFolder(adapter) },
      base_matches_adapter: disk.fingerprint === null ? null : disk.fingerprint === base.source.fingerprint,
      result: {
        dtypes,
        model_sha256: await hashFolder(modelFolder),
        ...(adapterFolder && { adapter_sha256: await hashFolder(adapterFolder) }),
      },
    };
    writeFileSync(join(temporary, RECEIPT_FILE), `${JSON.stringify(receipt, null, 2)}\n`);
  });
  return receipt as MergeReceipt;
}

/** The merged model's tensors, each computed when it is written. */
function mergedTensors(
  base: StreamedModel,
  attach: AttachAdapter,
  { untie }: HeadPlan,
  dtype: FloatDtype | undefined,
): { tensors: TypedTensor[]; close: () => void } {
  const { layerOf, close } = openLayers(base, attach);
  const values = (name: string): Float32Array | Iterable<Float32Array> => {
    const part = layerOf(name);
    const parameter = part?.parameters.get(name);
    if (part && parameter) return mergedValues(name, parameter, new Map(part.layer.modules.map((m) => [m.name, m])));
    return name === EMBEDDING ? mergedEmbeddings(base, attach) : rowsOf(base, name);
  };
  const tensorOf = (name: string, from: string, data: CheckpointTensor['data']): TypedTensor => {
    const shape = base.parameters.get(from)?.shape ?? [];
    return { name, shape, dtype: dtype ?? storedDtype(base, from), data };
  };
  const tensors = Array.from(base.parameters.keys(), (name) => tensorOf(name, name, () => values(name)));
  if (untie) tensors.push(tensorOf(HEAD, EMBEDDING, () => rowsOf(base, EMBEDDING)));
  return { tensors, close };
}

/** Loads the layer that a tensor belongs to, with the adapter attached, and frees the one before. */
function openLayers(base: StreamedModel, attach: AttachAdapter) {
  let open: { index: number; part: LayerPart } | undefined;
  const close = () => {
    open?.part.dispose();
    open = undefined;
  };
  const layerOf = (name: string): LayerPart | undefined => {
    const index = /^backbone\.layers\.(\d+)\./.exec(name)?.[1];
    if (index === undefined) return undefined;
    if (open?.index !== Number(index)) {
      close();
      open = { index: Number(index), part: base.loadLayer(Number(index)) };
      attach(open.part.layer.modules);
    }
    return open.part;
  };
  return { layerOf, close };
}

function* rowsOf(base: StreamedModel, name: string): Generator<Float32Array> {
  for (const rows of rowChunks(base.parameters.get(name)?.shape ?? [])) yield readFinite(base.tensors, name, rows);
}

function* mergedEmbeddings(base: StreamedModel, attach: AttachAdapter): Generator<Float32Array> {
  const module = base.modules.get('backbone.embeddings') as EmbeddingModule;
  const lora = attachedEmbedding(base, attach);
  try {
    for (const rows of rowChunks(module.weight.shape)) {
      const values = readFinite(base.tensors, EMBEDDING, rows);
      yield lora ? mergedRows(module, lora, values, rows) : values;
    }
  } finally {
    if (lora) disposeLora(lora);
  }
}

/** The base's own type of a tensor, as far as it can be written. */
function storedDtype(base: StreamedModel, name: string): FloatDtype {
  const stored = base.tensors.entries.get(name)?.dtype;
  return FLOAT_DTYPES.find((dtype) => dtype === stored) ?? 'F32';
}

async function writeParts(
  base: StreamedModel,
  folder: string,
  { config }: HeadPlan,
  tensors: readonly TypedTensor[],
  { maxShardSize, extraFiles }: MergeAdapterOptions,
): Promise<void> {
  const { generationConfig } = base;
  await saveCheckpoint(folder, config, tensors, {
    ...(generationConfig && { generationConfig }),
    ...(maxShardSize !== undefined && { maxShardSize }),
    ...(extraFiles && { extraFiles }),
  });
}

function logitsOfWritten(folder: string, adapter: string | null, probe: Probe): Float32Array {
  const model = openStreamedModel(folder);
  try {
    return streamedLogits(
      model,
      probe.inputIds,
      adapter === null ? {} : { attach: openDiskAdapter(adapter, model).attach },
    );
  } finally {
    model.close();
  }
}

/** @throws UserError when the difference is above the tolerance */
function verdict(comparison: LogitComparison, dtypes: readonly FloatDtype[], asked: number | undefined) {
  const tolerance = asked ?? Math.max(...dtypes.map((dtype) => DEFAULT_TOLERANCES[dtype]));
  const { max_abs_logit_difference: difference, largest_logit: largest } = comparison;
  if (difference <= tolerance * largest) {
    return { relative_difference: largest === 0 ? 0 : difference / largest, tolerance };
  }
  throw new UserError(
    `the merged model's logits differ by ${difference} from those of base and adapter, of logits up to ${largest}; the tolerance is ${tolerance} of the largest, ${tolerance * largest}. Nothing was written. Half-precision weights round more than float32; --tolerance allows more.`,
  );
}

function headFacts(
  base: StreamedModel,
  adapted: StreamedModel,
  { untie, adaptsTiedHead }: HeadPlan,
  policy: TiedPolicy = 'untie',
): MergeReceipt['tied_embeddings'] {
  const changed = adaptsTiedHead ? 'changed with the embeddings' : 'unchanged';
  const hasOwnHead = base.config.tieWordEmbeddings && !adapted.config.tieWordEmbeddings;
  return { base_is_tied: base.config.tieWordEmbeddings, policy, head: untie || hasOwnHead ? 'untied' : changed };
}
