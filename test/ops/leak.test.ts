// SPDX-License-Identifier: Apache-2.0
/** Twenty steps of a block that uses every op leave not a tensor, not a byte and no packed weight behind. */
import type { Scalar, Tensor1D, Tensor2D, Tensor3D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { checkpoint, valueAndGradients } from '../../src/autograd/index.ts';
import { DeviceBackend } from '../../src/backends/device_backend.ts';
import { causalConv1d } from '../../src/ops/causal_conv1d.ts';
import { linearCrossEntropy } from '../../src/ops/linear_cross_entropy.ts';
import { loraEmbedding } from '../../src/ops/lora_embedding.ts';
import { loraLinear } from '../../src/ops/lora_linear.ts';
import { rmsNorm } from '../../src/ops/rms_norm.ts';
import { selectiveScan } from '../../src/ops/selective_scan.ts';
import { splitChannels } from '../../src/ops/split_channels.ts';
import { forEachBackend } from '../helpers/backends.ts';
import { liveMemory } from '../helpers/memory.ts';
import { operandSource, toTensor } from '../helpers/random_tensors.ts';

const [BATCH, SEQLEN, VOCAB, D_MODEL, D_INNER, D_STATE, R] = [2, 7, 23, 12, 24, 4, 3];

function parameters() {
  const source = operandSource(1);
  const variable = <T extends tf.Tensor>(shape: number[], trainable: boolean) =>
    tf.tidy(() => tf.variable(toTensor(source.normal(shape, 0.3)), trainable)) as unknown as T;
  const frozen = {
    embeddings: variable<Tensor2D>([VOCAB, D_MODEL], false),
    norm: variable<Tensor1D>([D_MODEL], false),
    inProj: variable<Tensor2D>([2 * D_INNER, D_MODEL], false),
    conv: variable<Tensor2D>([D_INNER, 4], false),
    xProj: variable<Tensor2D>([D_INNER + 2 * D_STATE, D_INNER], false),
    A: variable<Tensor2D>([D_INNER, D_STATE], false),
    outProj: variable<Tensor2D>([D_MODEL, D_INNER], false),
  };
  const trainable = {
    inA: variable<Tensor2D>([R, D_MODEL], true),
    inB: variable<Tensor2D>([2 * D_INNER, R], true),
    embeddingA: variable<Tensor2D>([R, VOCAB], true),
    embeddingB: variable<Tensor2D>([D_MODEL, R], true),
  };
  return { frozen, trainable };
}

type Parameters = ReturnType<typeof parameters>;

function loss({ frozen, trainable }: Parameters, ids: Tensor2D, labels: Tensor1D): Scalar {
  const { inA, inB, embeddingA, embeddingB } = trainable;
  const embedded = loraEmbedding({ ids, W: frozen.embeddings, loraA: embeddingA, loraB: embeddingB }, 2);
  const mixed = checkpoint(
    (x) => {
      const { y, residualOut } = rmsNorm({ x: x as tf.Tensor, weight: frozen.norm });
      const projected = loraLinear({ x: y, W: frozen.inProj, loraA: inA, loraB: inB }, { dropout: 0.2, seed: 1 });
      const [hidden, gate] = splitChannels(projected, [D_INNER, D_INNER]) as [Tensor3D, Tensor3D];
      const u = causalConv1d({ x: hidden, weight: frozen.conv }).y;
      const [delta, B, C] = splitChannels(loraLinear({ x: u, W: frozen.xProj }), [
        D_INNER,
        D_STATE,
        D_STATE,
      ]) as Tensor3D[];
      const A = tf.neg(tf.exp(frozen.A)) as Tensor2D;
      const { out } = selectiveScan({ u, delta: delta as Tensor3D, A, B: B as Tensor3D, C: C as Tensor3D, z: gate });
      return rmsNorm({ x: loraLinear({ x: out, W: frozen.outProj }), residual: residualOut }).y;
    },
    [embedded],
    [inA, inB],
  );
  return linearCrossEntropy({ hidden: tf.reshape(mixed, [-1, D_MODEL]), W: frozen.embeddings, labels }).lossSum;
}

forEachBackend(() => {
  it('leaks nothing', () => {
    const start = liveMemory();
    const all = parameters();
    const source = operandSource(2);
    const ids = toTensor(source.integers([BATCH, SEQLEN], VOCAB)) as Tensor2D;
    const labels = toTensor(source.integers([BATCH * SEQLEN], VOCAB)) as Tensor1D;
    const leaves = Object.values(all.trainable) as tf.Tensor[];
    const losses: number[] = [];
    const step = () =>
      tf.tidy(() => {
        const received: number[] = [];
        const onGradient = (index: number) => void received.push(index);
        const { value } = valueAndGradients(() => tf.tidy(() => loss(all, ids, labels)), leaves, { onGradient });
        losses.push(value.dataSync()[0] as number);
        expect(received.sort()).toEqual([0, 1, 2, 3]);
      });
    step();
    const afterOne = liveMemory();
    for (let i = 1; i < 20; i++) step();
    expect(liveMemory()).toEqual(afterOne);
    expect(new Set(losses).size).toBe(1);
    expect(Number.isFinite(losses[0])).toBe(true);
    tf.dispose([ids, labels]);
    for (const variable of [...Object.values(all.frozen), ...leaves]) variable.dispose();
    expect(liveMemory()).toEqual(start);
    const backend = tf.backend();
    if (backend instanceof DeviceBackend) expect(backend.memoryStats().weightCacheBytes).toBe(0);
  });
});
