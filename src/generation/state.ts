// SPDX-License-Identifier: Apache-2.0
/**
 * Where a text stands, as a value and as a file: to continue it, more than once, without reading it again. docs/generation.md
 * describes the file.
 */
import { createHash } from 'node:crypto';
import * as tf from '@tensorflow/tfjs-core';
import { openSafetensors } from '../checkpoint/safetensors.ts';
import { type TensorToWrite, writeSafetensors } from '../checkpoint/safetensors_writer.ts';
import type { TensorSource } from '../checkpoint/tensor_source.ts';
import { UserError } from '../errors.ts';
import type { MambaCache } from '../model/backbone.ts';
import { makeState } from '../model/backbone.ts';
import type { MambaForCausalLM } from '../model/causal_lm.ts';
import { adapterTensors } from '../model/modules.ts';
import { checkPrompts, readPrompts } from './prompts.ts';

/** A text that a model has read. */
export interface GenerationState {
  /** Its ids. */
  readonly inputIds: readonly number[];
  /** After its last id: [vocab_size]. */
  readonly logits: Float32Array;
  /** One row. */
  readonly cache: MambaCache;
  dispose(): void;
}

const FORMAT = 'mambatune-state';
const VERSION = '1';

/**
 * Reads a text without continuing it. The state is the caller's to dispose of.
 *
 * @param inputIds at least one id
 * @param options.state what they continue; stays the caller's. Default nothing.
 * @throws ConfigError when there are no ids
 * @throws UserError when an id is outside the vocabulary
 */
export async function readPrompt(
  model: MambaForCausalLM,
  inputIds: readonly number[],
  options: { state?: GenerationState; signal?: AbortSignal } = {},
): Promise<GenerationState> {
  const { state } = options;
  checkPrompts([inputIds], state !== undefined);
  const { decoder, logits } = await readPrompts(model, [inputIds], options);
  const read = readText([...(state?.inputIds ?? []), ...inputIds], logits.slice(), decoder.copyState());
  decoder.dispose();
  return read;
}

/**
 * Writes a state, with hashes of the model and the adapter that it belongs to.
 * @throws UserError when the file cannot be written
 */
export function saveState(path: string, state: GenerationState, model: MambaForCausalLM): void {
  const { inputIds, logits, cache } = state;
  const tensors: TensorToWrite[] = [
    { name: 'input_ids', dtype: 'I32', shape: [inputIds.length], data: () => Int32Array.from(inputIds) },
    { name: 'logits', dtype: 'F32', shape: [logits.length], data: () => logits },
  ];
  for (const { name, of, shape } of stateTensors(model)) {
    tensors.push({ name, dtype: 'F32', shape, data: () => of(cache).dataSync<'float32'>() });
  }
  const { base, adapter } = fingerprints(model);
  const names = { model: model.source.name ?? '', base_sha256: base, adapter_sha256: adapter };
  writeSafetensors(path, tensors, { format: FORMAT, version: VERSION, ...names });
}

/**
 * Reads a state of the same model and adapter. It is the caller's to dispose of.
 * @throws UserError when the file is missing, damaged or no state, or belongs to another model or adapter
 */
export function loadState(path: string, model: MambaForCausalLM): GenerationState {
  const source = openSafetensors(path);
  try {
    checkOrigin(source, model);
    const inputIds = [...source.readInt32('input_ids')];
    checkShape(source, 'logits', [model.config.vocabSize]);
    const logits = source.readFloat32('logits');
    const convStates: tf.Tensor3D[] = [];
    const ssmStates: tf.Tensor3D[] = [];
    try {
      for (const { name, kind, shape } of stateTensors(model)) {
        checkShape(source, name, shape);
        const tensor = tf.tensor3d(finite(source, name), [1, ...shape]);
        (kind === 'conv' ? convStates : ssmStates).push(tensor);
      }
    } catch (error) {
      tf.dispose([convStates, ssmStates]);
      throw error;
    }
    return readText(inputIds, logits, makeState(convStates, ssmStates));
  } finally {
    source.close();
  }
}

function readText(inputIds: number[], logits: Float32Array, cache: MambaCache): GenerationState {
  return { inputIds, logits, cache, dispose: () => cache.dispose() };
}

interface StateTensor {
  name: string;
  kind: 'conv' | 'ssm';
  shape: [number, number];
  of(cache: MambaCache): tf.Tensor;
}

function stateTensors({ config }: MambaForCausalLM): StateTensor[] {
  const { intermediateSize, stateSize, convKernel, numHiddenLayers } = config;
  return Array.from({ length: numHiddenLayers }, (_, i): StateTensor[] => [
    {
      name: `backbone.layers.${i}.mixer.conv_state`,
      kind: 'conv',
      shape: [convKernel - 1, intermediateSize],
      of: (cache) => cache.convStates[i] as tf.Tensor,
    },
    {
      name: `backbone.layers.${i}.mixer.ssm_state`,
      kind: 'ssm',
      shape: [intermediateSize, stateSize],
      of: (cache) => cache.ssmStates[i] as tf.Tensor,
    },
  ]).flat();
}

/**
 * SHA-256 of the base parameters, and of the adapter: its tensors with their scaling or tokens, and what it has put in the place of base
 * parameters. '' where there is none. All as they are in memory.
 */
function fingerprints({ backbone }: MambaForCausalLM): { base: string; adapter: string } {
  const base = createHash('sha256');
  for (const [name, variable] of byName(backbone.baseParameters())) {
    base.update(`${name} [${variable.shape}]\n`).update(variable.dataSync<'float32'>());
  }
  const tensors = [...backbone.modules.values()].flatMap((module) =>
    adapterTensors(module).map(([name, variable]): [string, tf.Variable] => [
      `${name} [${variable.shape}] ${(module.kind === 'embedding' && module.tokens?.indices) || module.lora?.scaling}`,
      variable,
    ]),
  );
  for (const [name, variable] of byName(backbone.replacements()))
    tensors.push([`${name} [${variable.shape}]`, variable]);
  const adapter = createHash('sha256');
  for (const [description, variable] of tensors) {
    adapter.update(`${description}\n`).update(variable.dataSync<'float32'>());
  }
  return { base: base.digest('hex'), adapter: tensors.length > 0 ? adapter.digest('hex') : '' };
}

function byName(variables: ReadonlyMap<string, tf.Variable>): [string, tf.Variable][] {
  return [...variables].sort(([a], [b]) => (a < b ? -1 : 1));
}

function checkOrigin({ path, metadata }: TensorSource, model: MambaForCausalLM): void {
  const { format, version, model: name, base_sha256: savedBase, adapter_sha256: savedAdapter } = metadata;
  if (format !== FORMAT) {
    throw new UserError(
      `${path}: this is no state of a generation; expected a file that --save-state or saveState wrote.`,
    );
  }
  if (version !== VERSION) {
    throw new UserError(`${path}: this is a state of version ${version}; this program reads version ${VERSION}.`);
  }
  const { base, adapter } = fingerprints(model);
  if (savedBase !== base) {
    const origin = name ? `, ${name}` : '';
    throw new UserError(
      `${path}: this state belongs to other weights (sha256 ${short(savedBase)}${origin}) than the model's (${short(base)}). Load the model that it was saved with, in the same dtype.`,
    );
  }
  if (savedAdapter !== adapter) {
    throw new UserError(
      `${path}: this state was saved with ${adapterName(savedAdapter)}, and the model has ${adapterName(adapter)}. Load the adapter that it was saved with, and no other.`,
    );
  }
}

const short = (hash: string | undefined) => `${hash?.slice(0, 12)}…`;
const adapterName = (hash: string | undefined) => (hash ? `the adapter of sha256 ${short(hash)}` : 'no adapter');

function checkShape({ path, entries }: TensorSource, name: string, shape: readonly number[]): void {
  const found = entries.get(name)?.shape;
  if (found && found.join() === shape.join()) return;
  throw new UserError(
    `${path}: tensor ${name} ${found ? `has the shape [${found.join(', ')}]` : 'is missing'}; expected [${shape.join(', ')}]. The file is damaged.`,
  );
}

function finite(source: TensorSource, name: string): Float32Array {
  const values = source.readFloat32(name);
  const bad = values.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0)
    throw new UserError(`${source.path}: tensor ${name} holds ${values[bad]} at element ${bad}; the file is damaged.`);
  return values;
}
