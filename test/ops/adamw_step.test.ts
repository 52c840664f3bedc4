// SPDX-License-Identifier: Apache-2.0
/** The kernels AdamwStep and GlobalNorm of our devices against the float64 reference. */
import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { runKernel } from '../../src/autograd/index.ts';
import { forEachDevice } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { expectNoLeak } from '../helpers/memory.ts';
import { operandSource, toTensor } from '../helpers/random_tensors.ts';
import type { AdamwGroup } from '../reference/adamw_step.ts';
import { globalNorm, adamwStep as reference } from '../reference/adamw_step.ts';

const SIZES = [1, 5, 16, 33, 1000, 4097];
const HYPER = { beta1: 0.9, beta2: 0.999, eps: Math.fround(1e-8) };
const ROLES = ['parameter', 'gradient', 'expAvg', 'expAvgSq'] as const;

/** Learning rates and decays that differ from group to group, in float32 as the kernel takes them. */
function groupsOf(sizes: number[], gradientScale = 1): AdamwGroup[] {
  const source = operandSource(11);
  return sizes.map((size, i) => ({
    parameter: Float64Array.from(source.normal([size]).values),
    gradient: source.normal([size], gradientScale).values,
    expAvg: new Float64Array(size),
    expAvgSq: new Float64Array(size),
    learningRate: Math.fround(1e-3 * (i + 1)),
    weightDecay: Math.fround(i % 2 === 0 ? 0.1 : 0),
  }));
}

/** Steps the groups on the device and hands back what is in them afterwards. */
function deviceSteps(groups: AdamwGroup[], steps: number, maxGradNorm: number, withNorm = true) {
  return expectNoLeak(() => {
    const role = (name: (typeof ROLES)[number]) =>
      groups.map((group) =>
        tf.tidy(() =>
          tf.variable(toTensor({ values: Float32Array.from(group[name]), shape: [group.parameter.length] })),
        ),
      );
    const tensors = Object.fromEntries(ROLES.map((name) => [name, role(name)])) as Record<
      (typeof ROLES)[number],
      tf.Variable[]
    >;
    const named = (name: (typeof ROLES)[number]) => tensors[name].map((tensor, i) => [`${name}${i}`, tensor] as const);
    for (let step = 1; step <= steps; step++) {
      const norm = withNorm
        ? runKernel<Tensor>('GlobalNorm', Object.fromEntries(named('gradient')), { count: groups.length })
        : null;
      runKernel<Tensor[]>(
        'AdamwStep',
        { ...Object.fromEntries(ROLES.flatMap(named)), norm },
        {
          count: groups.length,
          learningRates: Float32Array.from(groups, ({ learningRate }) => learningRate),
          weightDecays: Float32Array.from(groups, ({ weightDecay }) => weightDecay),
          ...HYPER,
          step,
          maxGradNorm,
        },
      );
      norm?.dispose();
    }
    return groups.map((_, i) =>
      Object.fromEntries(
        ROLES.map((name) => {
          const tensor = tensors[name][i] as tf.Variable;
          const values = tensor.dataSync() as Float32Array;
          tensor.dispose();
          return [name, values];
        }),
      ),
    ) as Record<(typeof ROLES)[number], Float32Array>[];
  });
}

forEachDevice(() => {
  it.each([
    ['a few', SIZES],
    ['one', [7]],
    ['many', Array.from({ length: 200 }, (_, i) => 1 + ((i * 37) % 300))],
  ])('global norm of %s gradients', (_name, sizes) => {
    const groups = groupsOf(sizes, 3);
    const norm = expectNoLeak(() =>
      tf.tidy(() =>
        runKernel<Tensor>(
          'GlobalNorm',
          Object.fromEntries(groups.map((group, i) => [`gradient${i}`, tf.tensor(group.gradient as Float32Array)])),
          { count: groups.length },
        ).dataSync(),
      ),
    );
    expectClose(norm as unknown as Float32Array, [globalNorm(groups.map(({ gradient }) => gradient))], { rtol: 1e-6 });
  });

  it.each([
    ['without clipping', 0, true],
    ['without a norm', 0, false],
    ['clipped', 0.5, true],
    ['below the clip', 1e6, true],
  ])('three steps %s', (_name, maxGradNorm, withNorm) => {
    const groups = groupsOf(SIZES);
    const results = deviceSteps(groups, 3, maxGradNorm, withNorm);
    const norm = globalNorm(groups.map(({ gradient }) => gradient));
    for (let step = 1; step <= 3; step++) reference(groups, { ...HYPER, step, norm, maxGradNorm });
    for (const [i, group] of groups.entries()) {
      for (const name of ['parameter', 'expAvg', 'expAvgSq'] as const) {
        expectClose((results[i] as (typeof results)[number])[name], group[name], { rtol: 2e-6, name: `${name} ${i}` });
      }
    }
  });

  it('moments as torch has them: 1 - beta is rounded, not beta', () => {
    const groups = groupsOf([1000]);
    const gradient = groups[0]?.gradient as Float32Array;
    const [result] = deviceSteps(groups, 1, 0);
    // torch.optim.AdamW: exp_avg.lerp_(grad, 1 - beta1), exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2), from zeros.
    const rest = [Math.fround(1 - 0.9), Math.fround(1 - 0.999)] as const;
    expect(result?.expAvg).toEqual(gradient.map((g) => Math.fround(rest[0] * g)));
    expectClose(
      result?.expAvgSq ?? [],
      Array.from(gradient, (g) => rest[1] * g * g),
      { rtol: 1.5e-7 },
    );
  });

  it.each([Number.NaN, Number.POSITIVE_INFINITY])('a gradient of %d changes nothing', (bad) => {
    const groups = groupsOf([5, 33]);
    (groups[1]?.gradient as Float32Array)[30] = bad;
    for (const maxGradNorm of [0, 1]) {
      const results = deviceSteps(groups, 1, maxGradNorm);
      for (const [i, group] of groups.entries()) {
        for (const name of ['parameter', 'expAvg', 'expAvgSq'] as const) {
          expect(results[i]?.[name]).toEqual(Float32Array.from(group[name]));
        }
      }
    }
  });

  it('drops the packed copy of a weight that it changes', () => {
    const variable = (values: number[]) => tf.tidy(() => tf.variable(tf.tensor(values, [2, 2], 'float32'), false));
    const W = variable([1, 2, 3, 4]);
    const others = [variable([1, 1, -1, 1]), variable([0, 0, 0, 0]), variable([0, 0, 0, 0])] as const;
    const attrs = { scaling: 1, dropout: 0, seed: 0, offset: 0, frozen: true };
    const product = () =>
      tf.tidy(() => {
        const x = tf.tensor2d([
          [1, 0],
          [0, 1],
        ]);
        return (runKernel<Tensor[]>('LoraLinear', { x, W }, attrs)[0] as Tensor).dataSync();
      }) as unknown as Float32Array;
    expectClose(product(), [1, 3, 2, 4]);
    runKernel<Tensor[]>(
      'AdamwStep',
      { parameter0: W, gradient0: others[0], expAvg0: others[1], expAvgSq0: others[2] },
      {
        count: 1,
        learningRates: Float32Array.of(1),
        weightDecays: Float32Array.of(0),
        ...HYPER,
        step: 1,
        maxGradNorm: 0,
      },
    );
    expectClose(product(), [0, 4, 1, 3]);
    for (const tensor of [W, ...others]) tensor.dispose();
  });
});
