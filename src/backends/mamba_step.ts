// SPDX-License-Identifier: Apache-2.0
/**
 * One token of every row through a whole Mamba model, at a few calls into the addon: memory is allocated once, the state is
 * updated in place, and no tensor is made (native/binding/mamba_layer_step.cc).
 */
import type { Tensor, TensorInfo } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { DEVICE_INDEX } from './addon.ts';
import { DeviceBackend } from './device_backend.ts';
import {
  layerArguments,
  ROWS_AT_ONCE,
  type StepLayer,
  type StepLinear,
  scratchFloats,
  WEIGHT_KIND,
} from './layer_step.ts';

export type { StepLayer, StepLinear };

/** Parameters, which must not be disposed of while a step uses them. */
export interface StepModel {
  embeddings: StepLinear;
  layers: readonly StepLayer[];
  /** [d_model] */
  normF: Tensor;
  /** [vocab_size, d_model] */
  head: Tensor;
  eps: number;
  /** Weights do not change meanwhile, and where all values are bfloat16's a copy of half the size may be read. */
  isBfloat16: boolean;
}

/** State of the rows, one tensor a layer, each with memory of its own: a step changes it in place. */
export interface StepState {
  /** [batch, d_conv - 1, d_inner] */
  convStates: readonly Tensor[];
  /** [batch, d_inner, d_state] */
  ssmStates: readonly Tensor[];
}

export interface MambaStep {
  /**
   * Runs one token of each row.
   * @param tokens [batch], each in [0, vocab_size)
   * @returns logits [batch * vocab_size], overwritten by the next call
   */
  run(tokens: Int32Array): Float32Array;
  /** Frees the working memory; parameters and state stay. */
  dispose(): void;
}

/** Whether the current backend has it. */
export function hasMambaStep(): boolean {
  const backend = tf.backend();
  return backend instanceof DeviceBackend && backend.device === DEVICE_INDEX.native;
}

/** Prepares steps of a batch. @throws when the current backend has none */
export function createMambaStep(model: StepModel, state: StepState): MambaStep {
  const backend = tf.backend();
  if (!(backend instanceof DeviceBackend)) throw new Error(`the backend ${tf.getBackend()} has no steps`);
  const { addon, device } = backend;
  const batch = state.ssmStates[0]?.shape[0] ?? 0;
  const [vocabSize, dModel] = model.head.shape as [number, number];
  const own: TensorInfo[] = [];
  const allocate = (shape: number[], dtype: 'float32' | 'int32' = 'float32') => {
    const info = backend.output(shape, dtype);
    own.push(info);
    return backend.handle(info);
  };
  const handle = (tensor: TensorInfo | null) => backend.handle(tensor ?? undefined);
  const kind = model.isBfloat16 ? WEIGHT_KIND.frozenBfloat16 : WEIGHT_KIND.frozen;

  const ids = allocate([batch], 'int32');
  const hidden = allocate([batch, dModel]);
  const residuals = [allocate([batch, dModel]), allocate([batch, dModel])] as const;
  const scratch = allocate([Math.max(...model.layers.map((layer) => scratchFloats(backend, layer, dModel)))]);
  // The embeddings are the first residual; each layer adds its input to it, and the final norm the last layer's output.
  const { embeddings, layers } = model;
  const lookUp = [
    ...[batch, vocabSize, dModel, embeddings.lora?.A.shape[0] ?? 0, ids, handle(embeddings.weight)],
    ...[handle(embeddings.lora?.A ?? null), handle(embeddings.lora?.B ?? null), embeddings.lora?.scaling ?? 1],
    residuals[0],
  ];
  const layerCalls = layers.map((layer, i) => {
    const [before, after] = i % 2 === 1 ? residuals : [residuals[1], residuals[0]];
    return [
      ...layerArguments(backend, layer, { rows: batch, dModel, eps: model.eps, kind }),
      ...[handle(state.convStates[i] as Tensor), handle(state.ssmStates[i] as Tensor)],
      ...(i === 0 ? [residuals[0], 0, 0] : [hidden, before, after]),
      ...[hidden, scratch],
    ];
  });
  const last = layers.length % 2 === 1 ? residuals : [residuals[1], residuals[0]];
  const normed = allocate([batch, dModel]);
  const norm = [batch, dModel, hidden, last[0] as number, handle(model.normF), model.eps, normed, last[1] as number, 0];
  const headCalls = Array.from({ length: Math.ceil(batch / ROWS_AT_ONCE) }, (_, group) => {
    const begin = group * ROWS_AT_ONCE;
    const rows = Math.min(ROWS_AT_ONCE, batch - begin);
    const logits = allocate([rows, vocabSize]);
    const operands = [rows, vocabSize, dModel, 0, normed, begin * dModel, dModel, handle(model.head), kind];
    return { begin, end: begin + rows, logits, args: [...operands, 0, 0, 0, 1, 0, 0, 0, 0, logits, 0, 0, 0, 0, 0] };
  });
  const values = new Float32Array(batch * vocabSize);

  return {
    run(tokens) {
      addon.write(ids, tokens, 0);
      addon.loraEmbeddingFwd(device, ...lookUp);
      for (const args of layerCalls) addon.mambaLayerStep(device, ...args);
      addon.rmsNormFwd(device, ...norm);
      for (const { begin, end, logits, args } of headCalls) {
        addon.loraLinearFwd(device, ...args);
        addon.read(logits, values.subarray(begin * vocabSize, end * vocabSize), 0);
      }
      return values;
    },
    dispose() {
      for (const { dataId } of own) backend.disposeData(dataId);
    },
  };
}
