// SPDX-License-Identifier: Apache-2.0
/** The references against finite differences, and against known values. */
import { describe, expect, it } from 'vitest';
import { philox4x32 } from '../../src/random.ts';
import { expectClose } from '../helpers/compare.ts';
import { numericalGradient } from '../helpers/finite_differences.ts';
import { operandSource } from '../helpers/random_tensors.ts';
import { adamwStep, globalNorm } from './adamw_step.ts';
import { causalConv1d, causalConv1dGradients } from './causal_conv1d.ts';
import { dropoutMask } from './dropout.ts';
import { linearCrossEntropy, linearCrossEntropyGradients } from './linear_cross_entropy.ts';
import { loraEmbedding, loraEmbeddingGradients } from './lora_embedding.ts';
import { loraLinear, loraLinearGradients } from './lora_linear.ts';
import { rmsNorm, rmsNormGradients } from './rms_norm.ts';
import { selectiveScan, selectiveScanGradients } from './selective_scan.ts';

const source = operandSource(7);
const normal = (...shape: number[]) => Float64Array.from(source.normal(shape).values);
const dot = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a).reduce((sum, value, i) => sum + value * (b[i] as number), 0);

/** Compares each gradient with differences of `loss` as that operand of the problem moves. */
function expectGradients<P>(problem: P, loss: (p: P) => number, gradients: Record<string, Float64Array>): void {
  for (const [name, gradient] of Object.entries(gradients)) {
    const values = problem[name as keyof P] as ArrayLike<number>;
    const numerical = numericalGradient((moved) => loss({ ...problem, [name]: moved }), values, 2e-4);
    expectClose(gradient, numerical, { rtol: 1e-8, name });
  }
}

describe('selective_scan reference', () => {
  const [batch, seqlen, dInner, dState] = [2, 5, 3, 4];
  const full = {
    batch,
    seqlen,
    dInner,
    dState,
    u: normal(batch, seqlen, dInner),
    delta: normal(batch, seqlen, dInner),
    A: normal(dInner, dState).map((value) => -Math.exp(value)),
    B: normal(batch, seqlen, dState),
    C: normal(batch, seqlen, dState),
    D: normal(dInner),
    z: normal(batch, seqlen, dInner),
    deltaBias: normal(dInner),
    seqIdx: Int32Array.of(0, 0, 1, 1, 1, 3, 3, 3, 3, 4),
    h0: normal(batch, dInner, dState),
    deltaSoftplus: true,
  };
  const dout = normal(batch, seqlen, dInner);
  const dlastState = normal(batch, dInner, dState);

  it.each([
    ['everything', full],
    ['delta as it is', { ...full, delta: full.delta.map(Math.abs), deltaBias: undefined, deltaSoftplus: false }],
    ['no gate', { ...full, z: undefined }],
    ['one document', { ...full, seqIdx: undefined }],
    ['bare', { ...full, D: undefined, z: undefined, deltaBias: undefined, seqIdx: undefined, h0: undefined }],
    [
      'deltas above the threshold',
      { ...full, delta: full.delta.map((value) => value + 22), A: full.A.map((value) => value / 20) },
    ],
  ])('has the gradients of finite differences: %s', (_name, problem) => {
    const loss = (p: typeof problem) => {
      const { out, lastState } = selectiveScan(p);
      return dot(out, dout) + dot(lastState, dlastState);
    };
    const gradients = Object.entries(selectiveScanGradients(problem, dout, dlastState));
    const given = gradients.filter(([name]) => problem[name as keyof typeof problem] !== undefined);
    expectGradients(problem, loss, Object.fromEntries(given));
  });

  it('gives the closed form of one state', () => {
    const p = {
      batch: 1,
      seqlen: 3,
      dInner: 1,
      dState: 1,
      u: [1, 2, 3],
      delta: [0.5, 0.25, 1],
      A: [-1],
      B: [1, 1, 1],
      C: [1, 1, 2],
      D: [10],
      deltaSoftplus: false,
    };
    const h1 = 0.5;
    const h2 = Math.exp(-0.25) * h1 + 0.5;
    const h3 = Math.exp(-1) * h2 + 3;
    expectClose(selectiveScan(p).out, [h1 + 10, h2 + 20, 2 * h3 + 30], { rtol: 1e-15 });
  });
});

describe('causal_conv1d reference', () => {
  const [batch, seqlen, dInner, dConv] = [2, 6, 3, 4];
  const full = {
    batch,
    seqlen,
    dInner,
    dConv,
    x: normal(batch, seqlen, dInner),
    weight: normal(dInner, dConv),
    bias: normal(dInner),
    seqIdx: Int32Array.of(0, 0, 1, 1, 1, 1, 2, 3, 3, 3, 4, 4),
    convState: normal(batch, dConv - 1, dInner),
    silu: true,
  };
  const dy = normal(batch, seqlen, dInner);

  it.each([
    ['everything', full],
    ['no SiLU', { ...full, silu: false }],
    ['no bias, one document, no state', { ...full, bias: undefined, seqIdx: undefined, convState: undefined }],
  ])('has the gradients of finite differences: %s', (_name, problem) => {
    const { x, weight, bias } = causalConv1dGradients(problem, dy);
    expectGradients(problem, (p) => dot(causalConv1d(p).y, dy), { x, weight, ...(problem.bias && { bias }) });
  });

  it('hands the last inputs on, older ones from the given state', () => {
    const p = {
      batch: 1,
      seqlen: 2,
      dInner: 1,
      dConv: 4,
      x: [5, 6],
      weight: [1, 10, 100, 1000],
      convState: [2, 3, 4],
      silu: false,
    };
    expect(causalConv1d(p)).toEqual({ y: Float64Array.of(5432, 6543), lastConvState: Float64Array.of(4, 5, 6) });
  });
});

describe('rms_norm reference', () => {
  const full = { rows: 3, dModel: 5, x: normal(3, 5), residual: normal(3, 5), weight: normal(5), eps: 1e-2 };
  const dy = normal(3, 5);
  const dresidualOut = normal(3, 5);

  it.each([
    ['everything', full],
    ['bare', { ...full, residual: undefined, weight: undefined }],
  ])('has the gradients of finite differences: %s', (_name, problem) => {
    const loss = (p: typeof problem) => {
      const { y, residualOut } = rmsNorm(p);
      return dot(y, dy) + dot(residualOut, dresidualOut);
    };
    const { x, weight } = rmsNormGradients(problem, dy, dresidualOut);
    expectGradients(problem, loss, { x, ...(problem.residual && { residual: x }), ...(problem.weight && { weight }) });
  });

  it('gives rows of root mean square 1', () => {
    const { y } = rmsNorm({ rows: 1, dModel: 2, x: [3, 4], eps: 0 });
    expectClose(y, [3 / Math.sqrt(12.5), 4 / Math.sqrt(12.5)], { rtol: 1e-15 });
  });
});

describe('lora_linear reference', () => {
  const [rows, inFeatures, outFeatures, r] = [3, 5, 4, 2];
  const full = {
    rows,
    inFeatures,
    outFeatures,
    r,
    x: normal(rows, inFeatures),
    W: normal(outFeatures, inFeatures),
    bias: normal(outFeatures),
    loraA: normal(r, inFeatures),
    loraB: normal(outFeatures, r),
    scaling: 1.5,
    dropout: 0.4,
    seed: 2 ** 40 + 3,
    offset: 2 ** 33 + 1,
  };
  const dy = normal(rows, outFeatures);

  it.each([
    ['dropout', full],
    ['no dropout', { ...full, dropout: 0 }],
    ['no adapter', { ...full, r: 0, loraA: undefined, loraB: undefined }],
  ])('has the gradients of finite differences: %s', (_name, problem) => {
    const { loraA, loraB, ...plain } = loraLinearGradients(problem, dy);
    expectGradients(problem, (p) => dot(loraLinear(p), dy), { ...plain, ...(problem.loraA && { loraA, loraB }) });
  });

  it('draws the mask with the words of Philox', () => {
    const words = [0, 1].flatMap((block) => [...philox4x32([block, 0, 1, 2], [3, 256])]);
    const mask = dropoutMask(8, 0.4, 2 ** 40 + 3, 2 ** 33 + 1);
    expect([...mask]).toEqual(words.map((word) => (word >= 0.4 * 2 ** 32 ? 1 / 0.6 : 0)));
  });

  it('drops the asked-for share', () => {
    const dropped = dropoutMask(20_000, 0.1, 5, 0).filter((value) => value === 0).length;
    expect(Math.abs(dropped - 2000)).toBeLessThan(5 * Math.sqrt(20_000 * 0.1 * 0.9));
  });
});

describe('lora_embedding reference', () => {
  const [rows, vocabSize, dModel, r] = [6, 4, 3, 2];
  const full = {
    rows,
    vocabSize,
    dModel,
    r,
    ids: Int32Array.of(0, 3, 3, 1, 0, 3),
    W: normal(vocabSize, dModel),
    loraA: normal(r, vocabSize),
    loraB: normal(dModel, r),
    scaling: 0.7,
  };
  const dout = normal(rows, dModel);

  it('has the gradients of finite differences', () => {
    expectGradients(full, (p) => dot(loraEmbedding(p), dout), loraEmbeddingGradients(full, dout));
  });
});

describe('linear_cross_entropy reference', () => {
  const [rows, dModel, vocabSize] = [5, 3, 7];
  const full = {
    rows,
    dModel,
    vocabSize,
    hidden: normal(rows, dModel),
    W: normal(vocabSize, dModel),
    labels: Int32Array.of(0, -100, 6, 2, -100),
  };

  it('has the gradients of finite differences', () => {
    expectGradients(full, (p) => 1.7 * linearCrossEntropy(p).lossSum, linearCrossEntropyGradients(full, 1.7));
  });

  it('is log(vocab_size) a token for equal logits', () => {
    const { lossSum, count } = linearCrossEntropy({ ...full, W: new Float64Array(vocabSize * dModel) });
    expect(count).toBe(3);
    expectClose([lossSum], [3 * Math.log(7)], { rtol: 1e-15 });
  });
});

describe('adamw_step reference', () => {
  it('moves every element by the learning rate in the first step', () => {
    const group = {
      parameter: Float64Array.of(1, 2),
      gradient: [0.5, -3],
      expAvg: new Float64Array(2),
      expAvgSq: new Float64Array(2),
      learningRate: 0.1,
      weightDecay: 0.5,
    };
    adamwStep([group], {
      beta1: 0.9,
      beta2: 0.999,
      eps: 0,
      step: 1,
      norm: globalNorm([group.gradient]),
      maxGradNorm: 0,
    });
    expectClose(group.parameter, [0.95 - 0.1, 1.9 + 0.1], { rtol: 1e-12 });
    expectClose(group.expAvg, [0.05, -0.3], { rtol: 1e-12 });
    expectClose(group.expAvgSq, [0.00025, 0.009], { rtol: 1e-12 });
  });

  it('clips to the norm', () => {
    const group = {
      parameter: new Float64Array(2),
      gradient: [3, 4],
      expAvg: new Float64Array(2),
      expAvgSq: new Float64Array(2),
      learningRate: 0.1,
      weightDecay: 0,
    };
    expect(globalNorm([group.gradient])).toBe(5);
    adamwStep([group], { beta1: 0, beta2: 0, eps: 0, step: 1, norm: 5, maxGradNorm: 1 });
    expectClose(group.expAvg, [0.6, 0.8], { rtol: 1e-6 });
  });
});
