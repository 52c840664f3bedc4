// SPDX-License-Identifier: Apache-2.0
/** The fused block against the ops it runs, composed: outputs and every gradient, on the devices that have it. */
import type { Scalar, Tensor, Tensor1D, Tensor2D, Tensor3D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import type { MatmulPrecision } from '../../src/backends/precision.ts';
import { setMatmulPrecision } from '../../src/backends/precision.ts';
import { causalConv1d } from '../../src/ops/causal_conv1d.ts';
import { loraLinear } from '../../src/ops/lora_linear.ts';
import type { BlockLinear } from '../../src/ops/mamba_block.ts';
import { BLOCK_LINEARS, hasMambaBlock, mambaBlock } from '../../src/ops/mamba_block.ts';
import { rmsNorm } from '../../src/ops/rms_norm.ts';
import { selectiveScan } from '../../src/ops/selective_scan.ts';
import { splitChannels } from '../../src/ops/split_channels.ts';
import { forEachBackend, forEachDevice, hasOwnKernels } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { layerInputs } from '../helpers/layer_inputs.ts';
import { runWithGradients } from '../helpers/op_run.ts';
import { type Operand, operandSource } from '../helpers/random_tensors.ts';

const [D_MODEL, D_INNER, D_CONV] = [20, 40, 4];
const EPS = 1e-5;
const SEED = 7;
const sizesOf = (dtRank: number, dState: number): Record<BlockLinear, [out: number, inFeatures: number]> => ({
  inProj: [2 * D_INNER, D_MODEL],
  xProj: [dtRank + 2 * dState, D_INNER],
  dtProj: [D_INNER, dtRank],
  outProj: [D_MODEL, D_INNER],
});

interface Case {
  batch: number;
  seqlen: number;
  adapted: readonly BlockLinear[];
  residual: boolean;
  packed?: boolean;
  biases?: boolean;
  dropout?: number;
  r?: number;
  dtRank?: number;
  dState?: number;
}

function operandsOf(each: Case): Record<string, Operand> {
  const { batch, seqlen, adapted, residual, packed, biases, r = 3, dtRank = 3, dState = 4 } = each;
  const { normal, uniform } = operandSource(11);
  const starts = Int32Array.from({ length: batch * seqlen }, (_, i) => Math.floor((i % seqlen) / 5));
  const operands: Record<string, Operand> = {
    hidden: normal([batch, seqlen, D_MODEL]),
    ...(residual && { residual: normal([batch, seqlen, D_MODEL]) }),
    norm: uniform([D_MODEL], 0.5, 1.5),
    convWeight: normal([D_INNER, D_CONV], 0.4),
    convBias: normal([D_INNER], 0.2),
    A: uniform([D_INNER, dState], -3, -0.1),
    D: normal([D_INNER]),
    dtProjBias: normal([D_INNER], 0.5, -1),
    ...(packed && { seqIdx: { values: starts, shape: [batch, seqlen] } }),
  };
  for (const linear of BLOCK_LINEARS) {
    const [out, inFeatures] = sizesOf(dtRank, dState)[linear];
    operands[`${linear}W`] = normal([out, inFeatures], 0.3);
    if (biases && (linear === 'inProj' || linear === 'outProj')) operands[`${linear}Bias`] = normal([out], 0.3);
    if (!adapted.includes(linear)) continue;
    operands[`${linear}A`] = normal([r, inFeatures], 0.3);
    operands[`${linear}B`] = normal([out, r], 0.3);
  }
  return operands;
}

function settingsOf(linear: BlockLinear, dropout = 0) {
  return { scaling: 0.7, dropout, offset: 3 + BLOCK_LINEARS.indexOf(linear) };
}

/** The operands, which all but hidden, residual and the adapters are variables that do not train, as in a model. */
function fused(t: Record<string, Tensor>, { dropout }: Case): Tensor[] {
  const { out, residualOut } = mambaBlock(
    {
      ...layerInputs(t, (linear) => settingsOf(linear, dropout)),
      seqIdx: t.seqIdx as Tensor2D,
      dropoutStep: dropout ? (tf.scalar(5, 'int32') as Scalar) : null,
    },
    { eps: EPS, seed: SEED },
  );
  return [out, residualOut];
}

function composed(t: Record<string, Tensor>, { dropout, dtRank = 3, dState = 4 }: Case): Tensor[] {
  const linear = (name: BlockLinear, x: Tensor, bias = t[`${name}Bias`]) =>
    loraLinear(
      {
        x,
        W: t[`${name}W`] as Tensor2D,
        bias: bias as Tensor1D | undefined,
        loraA: t[`${name}A`] as Tensor2D | undefined,
        loraB: t[`${name}B`] as Tensor2D | undefined,
        dropoutStep: dropout ? (tf.scalar(5, 'int32') as Scalar) : null,
      },
      { ...settingsOf(name, dropout), seed: SEED },
    );
  const { y, residualOut } = rmsNorm({ x: t.hidden as Tensor, weight: t.norm as Tensor1D, residual: t.residual }, EPS);
  const [x, z] = splitChannels(linear('inProj', y), [D_INNER, D_INNER]);
  const u = causalConv1d({
    x: x as Tensor3D,
    weight: t.convWeight as Tensor2D,
    bias: t.convBias as Tensor1D,
    seqIdx: t.seqIdx as Tensor2D,
  }).y;
  const [dt, B, C] = splitChannels(linear('xProj', u), [dtRank, dState, dState]);
  const delta = loraLinearWithoutBias('dtProj', dt as Tensor);
  const scan = selectiveScan({
    u,
    delta: delta as Tensor3D,
    A: t.A as Tensor2D,
    B: B as Tensor3D,
    C: C as Tensor3D,
    D: t.D as Tensor1D,
    z: z as Tensor3D,
    deltaBias: t.dtProjBias as Tensor1D,
    seqIdx: t.seqIdx as Tensor2D,
  });
  return [linear('outProj', scan.out), residualOut];

  function loraLinearWithoutBias(name: BlockLinear, input: Tensor): Tensor {
    return loraLinear(
      {
        x: input,
        W: t[`${name}W`] as Tensor2D,
        loraA: t[`${name}A`] as Tensor2D | undefined,
        loraB: t[`${name}B`] as Tensor2D | undefined,
        dropoutStep: dropout ? (tf.scalar(5, 'int32') as Scalar) : null,
      },
      { ...settingsOf(name, dropout), seed: SEED },
    );
  }
}

const RECIPE: readonly BlockLinear[] = ['inProj', 'xProj', 'outProj'];
const CASES: Record<string, Case> = {
  'the recipe': { batch: 2, seqlen: 33, adapted: RECIPE, residual: true },
  'the first layer': { batch: 2, seqlen: 33, adapted: RECIPE, residual: false },
  'every projection': { batch: 3, seqlen: 70, adapted: BLOCK_LINEARS, residual: true },
  'no adapter': { batch: 1, seqlen: 5, adapted: [], residual: true },
  'dt_proj alone': { batch: 1, seqlen: 31, adapted: ['dtProj'], residual: true },
  'one position': { batch: 2, seqlen: 1, adapted: BLOCK_LINEARS, residual: true },
  'packed documents': { batch: 2, seqlen: 40, adapted: RECIPE, residual: true, packed: true },
  biases: { batch: 2, seqlen: 9, adapted: RECIPE, residual: true, biases: true },
  dropout: { batch: 2, seqlen: 37, adapted: BLOCK_LINEARS, residual: true, dropout: 0.3 },
  'more rows than columns': { batch: 4, seqlen: 129, adapted: BLOCK_LINEARS, residual: true, r: 8 },
  'a large rank': { batch: 2, seqlen: 65, adapted: BLOCK_LINEARS, residual: true, r: 33 },
};

/** Of sizes with which x_proj's backward goes along with the convolution's in TF32 and bfloat16. */
const ROUNDED_CASES: Record<string, Case> = {
  'rank 8': { batch: 2, seqlen: 70, adapted: RECIPE, residual: true, r: 8, dtRank: 4 },
  'rank 12, packed documents': {
    batch: 3,
    seqlen: 40,
    adapted: RECIPE,
    residual: true,
    packed: true,
    r: 12,
    dtRank: 8,
  },
  'long sequences, walked in parts': {
    batch: 2,
    seqlen: 300,
    adapted: RECIPE,
    residual: true,
    packed: true,
    r: 8,
    dtRank: 8,
    dState: 16,
  },
  'no adapter on x_proj': { batch: 1, seqlen: 33, adapted: ['inProj'], residual: true, r: 8, dtRank: 4 },
  'dropout, which keeps them apart': {
    batch: 2,
    seqlen: 37,
    adapted: RECIPE,
    residual: true,
    dropout: 0.3,
    r: 8,
    dtRank: 4,
  },
};
/** Relative to the largest element; each product's inputs are off by up to 5e-4 and 4e-3 of themselves. */
const ROUNDED = { high: 1e-2, medium: 6e-2 } as const;

function compare(
  each: Case,
  rtol: { outputs: number; gradients: number },
  precision: MatmulPrecision = 'highest',
): void {
  const operands = operandsOf(each);
  const adapters = each.adapted.flatMap((linear) => [`${linear}A`, `${linear}B`]);
  const wanted = ['hidden', ...(each.residual ? ['residual'] : []), ...adapters];
  const upstream = operandSource(12);
  const shape = [each.batch, each.seqlen, D_MODEL];
  const dys = [upstream.normal(shape), upstream.normal(shape)];
  const expected = runWithGradients(operands, wanted, (t) => composed(t, each), dys);
  setMatmulPrecision(precision);
  let actual: typeof expected;
  try {
    actual = runWithGradients(operands, wanted, (t) => fused(t, each), dys);
  } finally {
    setMatmulPrecision('highest');
  }
  for (const [i, name] of ['out', 'residualOut'].entries()) {
    expectClose(actual.outputs[i] ?? [], expected.outputs[i] ?? [], { name, rtol: rtol.outputs });
  }
  for (const name of wanted) {
    expectClose(actual.gradients[name] ?? [], expected.gradients[name] ?? [], {
      name: `d${name}`,
      rtol: rtol.gradients,
    });
  }
}

forEachDevice((device) => {
  it.each(Object.entries(CASES))('%s', (_, each) => compare(each, { outputs: 1e-5, gradients: 2e-5 }));

  if (device === 'cuda') {
    describe.each(Object.entries(ROUNDED))('in precision %s', (precision, rtol) => {
      it.each(Object.entries(ROUNDED_CASES))('%s', (_, each) =>
        compare(each, { outputs: rtol, gradients: rtol }, precision as MatmulPrecision),
      );
    });
  }

  it('computes only the gradients that are asked for', () => {
    const each: Case = { batch: 2, seqlen: 6, adapted: RECIPE, residual: true };
    const operands = operandsOf(each);
    const shape = [each.batch, each.seqlen, D_MODEL];
    const dys = [operandSource(13).normal(shape), operandSource(14).normal(shape)];
    const all = runWithGradients(operands, ['hidden', 'xProjA', 'outProjB'], (t) => fused(t, each), dys);
    const one = runWithGradients(operands, ['xProjA'], (t) => fused(t, each), dys);
    const [alone, among] = [one, all].map(({ gradients }) => gradients.xProjA as ArrayLike<number>);
    expectClose(alone as ArrayLike<number>, among as ArrayLike<number>, { rtol: 1e-6 });
  });
});

forEachBackend((backend) => {
  it('is there where the own kernels are', () => {
    expect(hasMambaBlock()).toBe(hasOwnKernels(backend));
  });
});
