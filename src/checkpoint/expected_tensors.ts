// SPDX-License-Identifier: Apache-2.0
/** The tensors a Mamba checkpoint must hold, and the comparison with those it holds. */
import { UserError } from '../errors.ts';
import type { MambaConfig } from '../model/config.ts';
import { isFloatDtype } from './dtypes.ts';
import { rowChunks, type TensorSource } from './tensor_source.ts';

const EMBEDDING = 'backbone.embeddings.weight';
const HEAD = 'lm_head.weight';

/**
 * Names and shapes of all tensors of a MambaForCausalLM checkpoint in Hugging Face's layout (transformers,
 * models/mamba/modeling_mamba.py), in the order of the forward pass. A tied head has no tensor of its own.
 */
export function expectedTensors(config: MambaConfig): Map<string, number[]> {
  const { hiddenSize: dModel, intermediateSize: dInner, stateSize: dState, timeStepRank: dtRank } = config;
  const shapes = new Map<string, number[]>([[EMBEDDING, [config.vocabSize, dModel]]]);
  for (let layer = 0; layer < config.numHiddenLayers; layer++) {
    const prefix = `backbone.layers.${layer}`;
    const mixer = `${prefix}.mixer`;
    shapes.set(`${prefix}.norm.weight`, [dModel]);
    shapes.set(`${mixer}.in_proj.weight`, [2 * dInner, dModel]);
    if (config.useBias) shapes.set(`${mixer}.in_proj.bias`, [2 * dInner]);
    shapes.set(`${mixer}.conv1d.weight`, [dInner, 1, config.convKernel]);
    if (config.useConvBias) shapes.set(`${mixer}.conv1d.bias`, [dInner]);
    shapes.set(`${mixer}.x_proj.weight`, [dtRank + 2 * dState, dInner]);
    shapes.set(`${mixer}.dt_proj.weight`, [dInner, dtRank]);
    shapes.set(`${mixer}.dt_proj.bias`, [dInner]);
    shapes.set(`${mixer}.A_log`, [dInner, dState]);
    shapes.set(`${mixer}.D`, [dInner]);
    shapes.set(`${mixer}.out_proj.weight`, [dModel, dInner]);
    if (config.useBias) shapes.set(`${mixer}.out_proj.bias`, [dModel]);
  }
  shapes.set('backbone.norm_f.weight', [dModel]);
  if (!config.tieWordEmbeddings) shapes.set(HEAD, [config.vocabSize, dModel]);
  return shapes;
}

/**
 * Checks that a checkpoint is the model that its configuration describes. A tied model may hold lm_head.weight when it
 * equals the embedding.
 *
 * @throws UserError, one for all, listing every tensor that is missing, not expected, of another shape or no float; or that there
 *   are more layers than tensors
 */
export function checkTensors(config: MambaConfig, source: TensorSource): void {
  checkTensorHeaders(config, source);
  checkTiedHead(config, source);
}

/** The part of {@link checkTensors} that reads no values. */
export function checkTensorHeaders(config: MambaConfig, source: TensorSource): void {
  const { numHiddenLayers } = config;
  if (numHiddenLayers > source.entries.size) {
    throw new UserError(
      `${source.path} does not hold the model its config.json describes: found ${source.entries.size} tensors, which cannot be those of ${numHiddenLayers} layers (num_hidden_layers).`,
    );
  }
  const expected = expectedTensors(config);
  const faults: string[] = [];
  for (const [name, shape] of expected) {
    const entry = source.entries.get(name);
    if (!entry) {
      faults.push(`missing: ${name} [${shape}]`);
    } else if (String(entry.shape) !== String(shape)) {
      faults.push(`wrong shape: ${name} is [${entry.shape}], expected [${shape}]`);
    } else if (!isFloatDtype(entry.dtype)) {
      faults.push(`wrong dtype: ${name} is ${entry.dtype}, expected F32, BF16, F16 or F64`);
    }
  }
  for (const [name, entry] of source.entries) {
    const isTiedHead = name === HEAD && config.tieWordEmbeddings;
    if (!expected.has(name) && !isTiedHead) faults.push(`not expected: ${name} [${entry.shape}]`);
  }
  if (faults.length > 0) {
    throw new UserError(
      `${source.path} does not hold the model its config.json describes; ${faults.length} tensors differ:\n  ${faults.join('\n  ')}`,
    );
  }
}

function checkTiedHead(config: MambaConfig, source: TensorSource): void {
  const head = source.entries.get(HEAD);
  if (!config.tieWordEmbeddings || !head || head.aliasOf === EMBEDDING) return;
  if (!isSameTensor(source, HEAD, EMBEDDING)) {
    throw new UserError(
      `${source.path}: config.json ties the head to the embedding (tie_word_embeddings), but ${HEAD} differs from ${EMBEDDING}. Set "tie_word_embeddings": false in config.json if the head is its own.`,
    );
  }
}

function isSameTensor(source: TensorSource, one: string, other: string): boolean {
  const [rows = 0, ...rest] = source.entries.get(one)?.shape ?? [];
  if (String(source.entries.get(other)?.shape) !== String([rows, ...rest])) return false;
  for (const range of rowChunks([rows, ...rest])) {
    const expected = source.readFloat32(other, range);
    if (source.readFloat32(one, range).some((value, index) => !Object.is(value, expected[index]))) return false;
  }
  return true;
}
