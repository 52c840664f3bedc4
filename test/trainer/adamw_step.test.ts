// SPDX-License-Identifier: Apache-2.0
/** AdamW and the global norm against float64 loops, on every backend: fused and composed give the same. */
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { adamwStep, globalNorm } from '../../src/ops/adamw_step.ts';
import { createRandom } from '../../src/random.ts';
import { forEachBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { expectNoLeak } from '../helpers/memory.ts';

const SHAPES = [[1], [7], [5, 3], [16, 33], [130, 257]];
const SETTINGS = { beta1: 0.9, beta2: 0.999, eps: 1e-6 };

interface Group {
  shape: number[];
  parameter: Float64Array;
  gradient: Float64Array;
  expAvg: Float64Array;
  expAvgSq: Float64Array;
  learningRate: number;
  weightDecay: number;
}

function randomGroups(): Group[] {
  const random = createRandom({ seed: 1 });
  const draw = (shape: number[], value: () => number) =>
    Float64Array.from({ length: tf.util.sizeFromShape(shape) }, () => Math.fround(value()));
  return SHAPES.map((shape, i) => ({
    shape,
    parameter: draw(shape, random.normal),
    gradient: draw(shape, random.normal),
    expAvg: draw(shape, () => 0.1 * random.normal()),
    expAvgSq: draw(shape, () => 0.1 * random.uniform()),
    learningRate: 0.01 * (i + 1),
    weightDecay: 0.1 * i,
  }));
}

function referenceNorm(groups: Group[]): number {
  return Math.sqrt(groups.reduce((sum, { gradient }) => sum + gradient.reduce((part, g) => part + g * g, 0), 0));
}

/** torch.optim.AdamW after clip_grad_norm_, in place. */
function referenceStep(groups: Group[], step: number, maxGradNorm: number): void {
  const clip = maxGradNorm > 0 ? Math.min(1, maxGradNorm / (referenceNorm(groups) + 1e-6)) : 1;
  const { beta1, beta2, eps } = SETTINGS;
  for (const { parameter, gradient, expAvg, expAvgSq, learningRate, weightDecay } of groups) {
    for (let i = 0; i < parameter.length; i++) {
      const g = (gradient[i] as number) * clip;
      const m = beta1 * (expAvg[i] as number) + (1 - beta1) * g;
      const v = beta2 * (expAvgSq[i] as number) + (1 - beta2) * g * g;
      const denominator = Math.sqrt(v / (1 - beta2 ** step)) + eps;
      const decayed = (parameter[i] as number) * (1 - learningRate * weightDecay);
      parameter[i] = decayed - (learningRate * m) / (1 - beta1 ** step) / denominator;
      expAvg[i] = m;
      expAvgSq[i] = v;
    }
  }
}

/** The groups as tensors; run gets them and the groups take over what it made of them. */
function onTensors(groups: Group[], run: (entries: Parameters<typeof adamwStep>[0]) => void): Group[] {
  const variable = (values: Float64Array, shape: number[]) =>
    tf.tidy(() => tf.variable(tf.tensor(Float32Array.from(values), shape)));
  const entries = groups.map(({ shape, parameter, gradient, expAvg, expAvgSq, learningRate, weightDecay }) => ({
    parameter: variable(parameter, shape),
    gradient: tf.tensor(Float32Array.from(gradient), shape),
    expAvg: variable(expAvg, shape),
    expAvgSq: variable(expAvgSq, shape),
    learningRate,
    weightDecay,
  }));
  run(entries);
  const updated = groups.map((group, i) => {
    const entry = entries[i] as (typeof entries)[number];
    const values = (tensor: tf.Tensor) => Float64Array.from(tensor.dataSync());
    return {
      ...group,
      parameter: values(entry.parameter),
      expAvg: values(entry.expAvg),
      expAvgSq: values(entry.expAvgSq),
    };
  });
  tf.dispose(entries.flatMap(({ parameter, gradient, expAvg, expAvgSq }) => [parameter, gradient, expAvg, expAvgSq]));
  return updated;
}

forEachBackend(() => {
  it.each([
    ['clipped', 1],
    ['below the limit', 1e6],
    ['no limit', 0],
  ])('three steps, %s', (_, maxGradNorm) => {
    const expected = randomGroups();
    const norms: number[] = [];
    const actual = expectNoLeak(() =>
      onTensors(randomGroups(), (entries) => {
        for (let step = 1; step <= 3; step++) {
          const norm = globalNorm(entries.map((entry) => entry.gradient));
          adamwStep(entries, { ...SETTINGS, step, norm, maxGradNorm });
          norms.push(norm.dataSync()[0] as number);
          norm.dispose();
        }
      }),
    );
    for (let step = 1; step <= 3; step++) referenceStep(expected, step, maxGradNorm);
    expectClose(norms, Array(3).fill(referenceNorm(expected)), { rtol: 1e-6, name: 'norm' });
    for (const [i, group] of expected.entries()) {
      for (const key of ['parameter', 'expAvg', 'expAvgSq'] as const) {
        expectClose(actual[i]?.[key] ?? [], group[key], { rtol: 1e-6, name: `${key} of [${group.shape}]` });
      }
    }
  });

  it.each([Number.NaN, Number.POSITIVE_INFINITY])('changes nothing when a gradient is %s', (bad) => {
    const groups = randomGroups();
    (groups[2] as Group).gradient[4] = bad;
    const actual = onTensors(groups, (entries) => {
      const norm = globalNorm(entries.map((entry) => entry.gradient));
      expect(norm.dataSync()[0]).not.toSatisfy(Number.isFinite);
      adamwStep(entries, { ...SETTINGS, step: 1, norm, maxGradNorm: 1 });
    });
    expect(actual).toEqual(groups);
  });

  it('refuses a gradient of another shape', () => {
    const zeros = () => tf.variable(tf.zeros([2, 3]));
    const entry = { parameter: zeros(), expAvg: zeros(), expAvgSq: zeros(), learningRate: 1, weightDecay: 0 };
    const options = { ...SETTINGS, step: 1, norm: tf.scalar(1), maxGradNorm: 0 };
    expect(() => adamwStep([{ ...entry, gradient: tf.zeros([3, 2]) }], options)).toThrow(/\[2, 3\], got \[3, 2\]/);
  });
});
