// SPDX-License-Identifier: Apache-2.0
/**
 * A model that stays on the disk: its parts are loaded, used and freed one by one, so that a checkpoint of any size can be merged and
 * compared in the memory of one layer.
 */
import type { Tensor, Tensor1D, Tensor2D, Tensor3D, Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { openCheckpoint } from '../checkpoint/checkpoint.ts';
import { checkTensors, expectedTensors } from '../checkpoint/expected_tensors.ts';
import { fingerprint } from '../checkpoint/fingerprint.ts';
import { rowChunks, type TensorEntry, type TensorSource } from '../checkpoint/tensor_source.ts';
import { loraLinear } from '../ops/lora_linear.ts';
import { rmsNorm } from '../ops/rms_norm.ts';
import { buildBackbone, buildLayer, modulesOf } from './backbone.ts';
import type { MambaConfig } from './config.ts';
import type { ModelSource } from './mamba_model.ts';
import { type MambaLayer, runLayer } from './mixer.ts';
import { applyEmbedding, disposeLora, type EmbeddingModule, type LoraWeights, type Module } from './modules.ts';
import { disposeParameters, EMBEDDING, HEAD, type Parameters, readFinite, readParameters } from './parameters.ts';

/** What an adapter is to a part that has just been loaded: sets `lora` of those of its modules that it adapts. */
export type AttachAdapter = (modules: readonly Module[]) => void;

/** One loaded layer. */
export interface LayerPart {
  readonly layer: MambaLayer;
  readonly parameters: Parameters;
  /** Frees the parameters, and an attached adapter's. */
  dispose(): void;
}

export interface StreamedModel {
  readonly config: MambaConfig;
  readonly source: ModelSource & { readonly folder: string };
  readonly generationConfig: Readonly<Record<string, unknown>> | undefined;
  /** The checkpoint. */
  readonly tensors: TensorSource;
  /** Every module that an adapter can attach to, by name. The weights have shapes and no values. */
  readonly modules: ReadonlyMap<string, Module>;
  /** Shapes of the parameters, and their values on demand. */
  readonly parameters: ReadonlyMap<string, { readonly shape: number[]; dataSync(): Float32Array }>;
  /** Loads a layer. */
  loadLayer(index: number): LayerPart;
  close(): void;
}

/**
 * Opens a model folder; only headers are read.
 * @throws UserError when files are missing or damaged, or tensors do not fit the config
 */
export function openStreamedModel(
  folder: string,
  name: string = folder,
  revision: string | null = null,
): StreamedModel {
  const { config, source: tensors, generationConfig } = openCheckpoint(folder);
  try {
    checkTensors(config, tensors);
  } catch (error) {
    tensors.close();
    throw error;
  }
  const source = { folder, name, revision, fingerprint: fingerprint(expectedTensors(config), tensors) };
  return streamedModel(config, tensors, source, generationConfig);
}

function streamedModel(
  config: MambaConfig,
  tensors: TensorSource,
  source: StreamedModel['source'],
  generationConfig: StreamedModel['generationConfig'],
): StreamedModel {
  const parameters = new Map(
    Array.from(expectedTensors(config), ([key, shape]) => [key, { shape, dataSync: () => readFinite(tensors, key) }]),
  );
  return {
    config,
    source,
    generationConfig,
    tensors,
    modules: modulesOf(buildBackbone(config, parameters as unknown as Parameters)),
    parameters,
    loadLayer(index) {
      const prefix = `backbone.layers.${index}.`;
      const own = readParameters(config, tensors, (key) => key.startsWith(prefix));
      const layer = buildLayer(config, own, index);
      return { layer, parameters: own, dispose: () => disposeLayer(layer, own) };
    },
    close: () => tensors.close(),
  };
}

/**
 * A model with other values in the place of some of its tensors.
 * @param config the same, but for a head that becomes a tensor of its own
 * @param values by name, computed each time that they are read
 */
export function replaceTensors(
  model: StreamedModel,
  config: MambaConfig,
  values: ReadonlyMap<string, () => Float32Array<ArrayBuffer>>,
): StreamedModel {
  const { tensors } = model;
  const entries = new Map(tensors.entries);
  const shapes = expectedTensors(config);
  const embeddings = tensors.entries.get(EMBEDDING) as TensorEntry;
  if (values.has(HEAD) && !entries.has(HEAD)) entries.set(HEAD, { ...embeddings, name: HEAD });
  const source: TensorSource = {
    ...tensors,
    entries,
    readFloat32: (name, rows) => {
      const replaced = values.get(name)?.();
      if (!replaced) return tensors.readFloat32(name, rows);
      if (!rows) return replaced;
      const width = replaced.length / (shapes.get(name)?.[0] ?? 1);
      return replaced.slice(rows.start * width, (rows.start + rows.count) * width);
    },
    readInt32: (name) => tensors.readInt32(name),
    close: () => tensors.close(),
  };
  return streamedModel(config, source, model.source, model.generationConfig);
}

/**
 * A model with other values in the place of some rows of a tensor, however it is read.
 * @param rows by position, each as wide as the tensor's
 */
export function replaceTensorRows(
  model: StreamedModel,
  name: string,
  rows: ReadonlyMap<number, Float32Array>,
): StreamedModel {
  const { tensors } = model;
  const source: TensorSource = {
    ...tensors,
    readFloat32: (wanted, range) => {
      const values = tensors.readFloat32(wanted, range);
      if (wanted !== name) return values;
      const start = range?.start ?? 0;
      for (const [position, row] of rows) {
        const place = (position - start) * row.length;
        if (place >= 0 && place < values.length) values.set(row, place);
      }
      return values;
    },
    readInt32: (wanted) => tensors.readInt32(wanted),
    close: () => tensors.close(),
  };
  return streamedModel(model.config, source, model.source, model.generationConfig);
}

function disposeLayer(layer: MambaLayer, parameters: Parameters): void {
  for (const { lora } of layer.modules) if (lora) disposeLora(lora);
  layer.frozenA?.A.dispose();
  disposeParameters(parameters);
}

export interface StreamedLogitsOptions {
  /** An adapter to attach to each part. Default none. */
  attach?: AttachAdapter;
  /** Whether an adapter of the embeddings changes a tied head as well. Default false, as in peft: it changes the lookup alone. */
  adaptTiedHead?: boolean;
}

/**
 * Logits [seqlen, vocab_size] of one text, computed layer by layer and, in the head, a few rows of the vocabulary at a time.
 * @param ids each below vocab_size
 */
export function streamedLogits(
  model: StreamedModel,
  ids: readonly number[],
  { attach = () => {}, adaptTiedHead = false }: StreamedLogitsOptions = {},
): Float32Array {
  const hidden = streamedHidden(model, ids, attach);
  const name = model.config.tieWordEmbeddings ? EMBEDDING : HEAD;
  const shape = model.parameters.get(name)?.shape as [number, number];
  const [vocabSize] = shape;
  const logits = new Float32Array(ids.length * vocabSize);
  const lora = adaptTiedHead && name === EMBEDDING ? attachedEmbedding(model, attach) : null;
  const x = lora?.magnitude ? tf.mul(hidden, tf.div(lora.magnitude.value, lora.magnitude.norm as Tensor)) : hidden;
  for (const rows of rowChunks(shape)) {
    const part = tf.tidy(() => {
      const W = tf.tensor(readFinite(model.tensors, name, rows), [rows.count, shape[1]]);
      const loraB = lora && (tf.transpose(tf.slice(lora.A, [0, rows.start], [-1, rows.count])) as Tensor2D);
      const head = { x: x as Tensor, W: W as Tensor2D, loraA: lora && (tf.transpose(lora.B) as Tensor2D), loraB };
      return loraLinear(head, { scaling: lora?.scaling ?? 1 });
    });
    const values = part.dataSync<'float32'>();
    part.dispose();
    for (let row = 0; row < ids.length; row++) {
      logits.set(values.subarray(row * rows.count, (row + 1) * rows.count), row * vocabSize + rows.start);
    }
  }
  if (lora) disposeLora(lora);
  tf.dispose([hidden, x]);
  return logits;
}

/** After norm_f: [seqlen, d_model]. */
function streamedHidden(model: StreamedModel, ids: readonly number[], attach: AttachAdapter): Tensor2D {
  const { config } = model;
  const context = { mask: null, seqIdx: null, dropout: null, updateState: false };
  let hidden: Tensor = lookUp(model, ids, attach);
  let residual: Tensor | null = null;
  for (let index = 0; index < config.numHiddenLayers; index++) {
    const part = model.loadLayer(index);
    attach(part.layer.modules);
    const run = () => {
      const result = runLayer(part.layer, hidden, residual, context, null, false);
      return [result.hidden, result.residual];
    };
    const [nextHidden, nextResidual] = tf.tidy(run) as [Tensor, Tensor];
    if (hidden !== nextResidual) hidden.dispose();
    if (residual !== nextResidual) residual?.dispose();
    hidden = nextHidden;
    residual = nextResidual;
    part.dispose();
  }
  const last = tf.tidy(() => {
    const weight = tf.tensor1d(readFinite(model.tensors, 'backbone.norm_f.weight'));
    const { y } = rmsNorm({ x: hidden, weight: weight as Tensor1D, residual }, config.layerNormEpsilon);
    return tf.reshape(y, [ids.length, config.hiddenSize]) as Tensor2D;
  });
  tf.dispose([hidden, residual as Tensor]);
  return last;
}

/** Embeds one text [1, seqlen, d_model], reading no more rows than it needs. */
function lookUp(model: StreamedModel, ids: readonly number[], attach: AttachAdapter): Tensor3D {
  const width = model.config.hiddenSize;
  const distinct = [...new Set(ids)];
  const values = new Float32Array(distinct.length * width);
  for (const [row, id] of distinct.entries()) {
    values.set(readFinite(model.tensors, EMBEDDING, { start: id, count: 1 }), row * width);
  }
  const module = embeddingModule(model);
  const lora = attachedEmbedding(model, attach);
  const embedded = tf.tidy(() => {
    const rows = tf.tensor1d(distinct, 'int32');
    const positions = ids.map((id) => distinct.indexOf(id));
    return applyEmbedding(
      {
        ...module,
        weight: tf.tensor2d(values, [distinct.length, width]) as unknown as Variable,
        lora: lora && { ...lora, A: tf.gather(lora.A, rows, 1) as Variable },
      },
      tf.tensor2d(positions, [1, ids.length], 'int32'),
    );
  });
  if (lora) disposeLora(lora);
  return embedded as Tensor3D;
}

function embeddingModule(model: StreamedModel): EmbeddingModule {
  return model.modules.get('backbone.embeddings') as EmbeddingModule;
}

/**
 * What `attach` puts on the embeddings, which themselves stay without; the caller's to free ({@link disposeLora}). With DoRA the norms
 * of the merged columns, which no run of rows shows, are computed and kept in it.
 */
export function attachedEmbedding(model: StreamedModel, attach: AttachAdapter): LoraWeights | null {
  const module = { ...embeddingModule(model), weight: embeddingModule(model).weight };
  attach([module]);
  const { lora } = module;
  if (lora?.magnitude) lora.magnitude.norm = tf.keep(columnNorms(model, module.weight.shape, lora));
  return lora;
}

function columnNorms(model: StreamedModel, shape: number[], lora: LoraWeights): Tensor1D {
  return tf.tidy(() => {
    let squares: Tensor1D | undefined;
    for (const rows of rowChunks(shape)) {
      const sum: Tensor1D = tf.tidy(() => {
        const W = tf.tensor(readFinite(model.tensors, EMBEDDING, rows), [rows.count, ...shape.slice(1)]);
        const update = tf.matMul(tf.slice(lora.A, [0, rows.start], [-1, rows.count]), lora.B, true, true);
        const part = tf.sum(tf.square(tf.add(W, tf.mul(lora.scaling, update))), 0);
        return (squares ? tf.add(squares, part) : part) as Tensor1D;
      });
      squares?.dispose();
      squares = sum;
    }
    return tf.sqrt(squares as Tensor1D);
  });
}
