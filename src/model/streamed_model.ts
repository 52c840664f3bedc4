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
import { rowChunks, type TensorSource } from '../checkpoint/tensor_source.ts';
import { loraLinear } from '../ops/lora_linear.ts';
import { rmsNorm } from '../ops/rms_norm.ts';
import { buildBackbone, buildLayer, modulesOf } from './backbone.ts';
import type { MambaConfig } from './config.ts';
import type { ModelSource } from './mamba_model.ts';
import { type MambaLayer, runLayer } from './mixer.ts';
import { adapterTensors, applyEmbedding, type EmbeddingModule, type LoraWeights, type Module } from './modules.ts';
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
  const parameters = new Map(
    Array.from(expectedTensors(config), ([key, shape]) => [key, { shape, dataSync: () => readFinite(tensors, key) }]),
  );
  return {
    config,
    source: { folder, name, revision, fingerprint: fingerprint(expectedTensors(config), tensors) },
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

function disposeLayer(layer: MambaLayer, parameters: Parameters): void {
  for (const module of layer.linears) for (const [, variable] of adapterTensors(module)) variable.dispose();
  layer.frozenA?.dispose();
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
  const lora = adaptTiedHead && name === EMBEDDING ? attachedTo(embeddingModule(model), attach) : null;
  for (const rows of rowChunks(shape)) {
    const part = tf.tidy(() => {
      const W = tf.tensor(readFinite(model.tensors, name, rows), [rows.count, shape[1]]);
      const loraB = lora && (tf.transpose(tf.slice(lora.A, [0, rows.start], [-1, rows.count])) as Tensor2D);
      const head = { x: hidden as Tensor, W: W as Tensor2D, loraA: lora && (tf.transpose(lora.B) as Tensor2D), loraB };
      return loraLinear(head, { scaling: lora?.scaling ?? 1 });
    });
    const values = part.dataSync<'float32'>();
    part.dispose();
    for (let row = 0; row < ids.length; row++) {
      logits.set(values.subarray(row * rows.count, (row + 1) * rows.count), row * vocabSize + rows.start);
    }
  }
  disposeLora(lora);
  hidden.dispose();
  return logits;
}

/** After norm_f: [seqlen, d_model]. */
function streamedHidden(model: StreamedModel, ids: readonly number[], attach: AttachAdapter): Tensor2D {
  const { config } = model;
  const context = { mask: null, seqIdx: null, dropout: null };
  let hidden: Tensor = lookUp(model, ids, attach);
  let residual: Tensor | null = null;
  for (let index = 0; index < config.numHiddenLayers; index++) {
    const part = model.loadLayer(index);
    attach(part.layer.linears);
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
  const lora = attachedTo(module, attach);
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
  disposeLora(lora);
  return embedded as Tensor3D;
}

function embeddingModule(model: StreamedModel): EmbeddingModule {
  return model.modules.get('backbone.embeddings') as EmbeddingModule;
}

/** What `attach` puts on a module, which itself stays without. */
export function attachedTo(module: Module, attach: AttachAdapter): LoraWeights | null {
  const copy = { ...module };
  attach([copy]);
  return copy.lora;
}

function disposeLora(lora: LoraWeights | null): void {
  if (lora) tf.dispose([lora.A, lora.B]);
}
