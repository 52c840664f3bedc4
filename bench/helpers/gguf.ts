// SPDX-License-Identifier: Apache-2.0
/** A Mamba model as the GGUF file that llama.cpp reads (github.com/ggml-org/ggml, docs/gguf.md), with made-up tokens: for timing it on the same weights. */
import { closeSync, openSync, writeSync } from 'node:fs';
import type { MambaForCausalLM } from '../../src/model/causal_lm.ts';

const ALIGNMENT = 32;
const VERSION = 3;
/** Types of a value. */
const UINT32 = 4;
const FLOAT32 = 6;
const STRING = 8;
const ARRAY = 9;
/** Type of a tensor. */
const GGML_F32 = 0;

interface GgufTensor {
  name: string;
  /** The fastest axis first. */
  dims: number[];
  data(): Float32Array;
}

export function writeGguf(path: string, model: MambaForCausalLM): void {
  const tensors = ggufTensors(model);
  const metadata = ggufMetadata(model);
  const parts = [Buffer.from('GGUF'), uint32(VERSION), uint64(tensors.length), uint64(metadata.length), ...metadata];
  let offset = 0;
  for (const { name, dims } of tensors) {
    parts.push(string(name), uint32(dims.length), ...dims.map(uint64), uint32(GGML_F32), uint64(offset));
    offset += padded(4 * dims.reduce((a, b) => a * b, 1));
  }
  const file = openSync(path, 'w');
  const header = Buffer.concat(parts);
  writeSync(file, header);
  writeSync(file, Buffer.alloc(padded(header.length) - header.length));
  for (const { data } of tensors) {
    const { buffer, byteOffset, byteLength } = data();
    const bytes = Buffer.from(buffer, byteOffset, byteLength);
    for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at);
    writeSync(file, Buffer.alloc(padded(byteLength) - byteLength));
  }
  closeSync(file);
}

function ggufMetadata({ config }: MambaForCausalLM): Buffer[] {
  const numbers: [string, number][] = [
    ['context_length', 1 << 20],
    ['embedding_length', config.hiddenSize],
    ['feed_forward_length', 0],
    ['attention.head_count', 0],
    ['block_count', config.numHiddenLayers],
    ['ssm.conv_kernel', config.convKernel],
    ['ssm.inner_size', config.intermediateSize],
    ['ssm.state_size', config.stateSize],
    ['ssm.time_step_rank', config.timeStepRank],
    ['vocab_size', config.vocabSize],
  ];
  return [
    Buffer.concat([string('general.architecture'), uint32(STRING), string('mamba')]),
    Buffer.concat([string('tokenizer.ggml.model'), uint32(STRING), string('gpt2')]),
    strings(
      'tokenizer.ggml.tokens',
      Array.from({ length: config.vocabSize }, (_, id) => `t${id}`),
    ),
    strings('tokenizer.ggml.merges', ['t 0']),
    ...numbers.map(([key, value]) => Buffer.concat([string(`mamba.${key}`), uint32(UINT32), uint32(value)])),
    Buffer.concat([
      string('mamba.attention.layer_norm_rms_epsilon'),
      uint32(FLOAT32),
      float32(config.layerNormEpsilon),
    ]),
  ];
}

function ggufTensors({ config, parameters }: MambaForCausalLM): GgufTensor[] {
  const tensor = (name: string, from: string, change = (values: Float32Array) => values): GgufTensor => {
    const variable = parameters.get(from);
    if (!variable) throw new Error(`the model has no ${from}`);
    const dims = variable.shape.filter((size, axis) => size > 1 || axis !== 1).reverse();
    return { name, dims, data: () => change(variable.dataSync<'float32'>()) };
  };
  const layers = Array.from({ length: config.numHiddenLayers }, (_, i) => {
    const [to, from] = [`blk.${i}`, `backbone.layers.${i}`];
    return [
      tensor(`${to}.attn_norm.weight`, `${from}.norm.weight`),
      tensor(`${to}.ssm_in.weight`, `${from}.mixer.in_proj.weight`),
      tensor(`${to}.ssm_conv1d.weight`, `${from}.mixer.conv1d.weight`),
      tensor(`${to}.ssm_conv1d.bias`, `${from}.mixer.conv1d.bias`),
      tensor(`${to}.ssm_x.weight`, `${from}.mixer.x_proj.weight`),
      tensor(`${to}.ssm_dt.weight`, `${from}.mixer.dt_proj.weight`),
      tensor(`${to}.ssm_dt.bias`, `${from}.mixer.dt_proj.bias`),
      tensor(`${to}.ssm_a`, `${from}.mixer.A_log`, (values) => values.map((value) => -Math.exp(value))),
      tensor(`${to}.ssm_d`, `${from}.mixer.D`),
      tensor(`${to}.ssm_out.weight`, `${from}.mixer.out_proj.weight`),
    ];
  });
  return [
    tensor('token_embd.weight', 'backbone.embeddings.weight'),
    ...layers.flat(),
    tensor('output_norm.weight', 'backbone.norm_f.weight'),
  ];
}

const padded = (bytes: number) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function uint64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function float32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return bytes;
}

function strings(key: string, values: readonly string[]): Buffer {
  return Buffer.concat([string(key), uint32(ARRAY), uint32(STRING), uint64(values.length), ...values.map(string)]);
}

function string(text: string): Buffer {
  return Buffer.concat([uint64(Buffer.byteLength(text)), Buffer.from(text)]);
}
