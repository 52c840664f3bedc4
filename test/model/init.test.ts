// SPDX-License-Identifier: Apache-2.0
/** Random initialisation: the distribution of every kind of tensor, and that a seed decides it. */
import { describe, expect, it } from 'vitest';
import { MambaConfig } from '../../src/model/config.ts';
import { initialTensors } from '../../src/model/init.ts';

const CONFIG = new MambaConfig({
  vocabSize: 500,
  hiddenSize: 64,
  numHiddenLayers: 4,
  stateSize: 16,
  timeStepRank: 4,
  useBias: true,
});

function tensorsOf(config: MambaConfig, seed = 0): Map<string, Float32Array> {
  return new Map(Array.from(initialTensors(config, seed), ({ name, data }) => [name, data]));
}

/** All values of the tensors whose name ends so, over the layers. */
function valuesOf(tensors: Map<string, Float32Array>, suffix: string): number[] {
  const found = [...tensors].filter(([name]) => name.endsWith(suffix)).flatMap(([, data]) => [...data]);
  expect(found.length, suffix).toBeGreaterThan(0);
  return found;
}

function mean(values: number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function deviation(values: number[]): number {
  const centre = mean(values);
  return Math.sqrt(mean(values.map((value) => (value - centre) ** 2)));
}

/** Five standard errors of a sample. */
function slack(values: number[], sigma: number): number {
  return (5 * sigma) / Math.sqrt(values.length);
}

function expectUniform(values: number[], bound: number): void {
  const sigma = bound / Math.sqrt(3);
  expect(Math.max(...values.map(Math.abs))).toBeLessThanOrEqual(bound * (1 + 1e-6));
  expect(Math.max(...values.map(Math.abs))).toBeGreaterThan(0.99 * bound);
  expect(Math.abs(mean(values))).toBeLessThan(slack(values, sigma));
  expect(Math.abs(deviation(values) - sigma)).toBeLessThan(slack(values, sigma));
}

describe('initialTensors', () => {
  const tensors = tensorsOf(CONFIG);

  it.each(['embeddings.weight', 'in_proj.weight', 'x_proj.weight'])('%s is normal with initializer_range', (suffix) => {
    const values = valuesOf(tensors, suffix);
    expect(Math.abs(mean(values))).toBeLessThan(slack(values, 0.1));
    expect(Math.abs(deviation(values) - 0.1)).toBeLessThan(slack(values, 0.1));
    const within = values.filter((value) => Math.abs(value) < 0.1).length / values.length;
    expect(within, 'share within one deviation of a normal').toBeCloseTo(0.6827, 1);
    expect(Math.max(...values.map(Math.abs)), 'tails').toBeGreaterThan(0.3);
  });

  it('out_proj and conv1d are uniform by fan-in, dt_proj by its rank', () => {
    expectUniform(valuesOf(tensors, 'out_proj.weight'), 1 / Math.sqrt(128));
    expectUniform(valuesOf(tensors, 'conv1d.weight'), 1 / Math.sqrt(4));
    expectUniform(valuesOf(tensors, 'dt_proj.weight'), 4 ** -0.5);
  });

  it('rescale_prenorm_residual divides out_proj by sqrt(n_layer) and nothing else', () => {
    const rescaled = tensorsOf(CONFIG.with({ rescalePrenormResidual: true }));
    for (const [name, data] of tensors) {
      const factor = name.endsWith('out_proj.weight') ? 1 / 2 : 1;
      expect(rescaled.get(name), name).toEqual(data.map((value) => value * factor));
    }
  });

  it('A_log is log(1..d_state), D and norms are one, biases zero', () => {
    const rows = valuesOf(tensors, 'A_log');
    expect(rows.every((value, i) => value === Math.fround(Math.log((i % 16) + 1)))).toBe(true);
    for (const suffix of ['.D', 'norm.weight', 'norm_f.weight'])
      expect(new Set(valuesOf(tensors, suffix))).toEqual(new Set([1]));
    for (const suffix of ['in_proj.bias', 'out_proj.bias', 'conv1d.bias'])
      expect(new Set(valuesOf(tensors, suffix))).toEqual(new Set([0]));
  });

  it('softplus of the dt bias is log-uniform in [time_step_min, time_step_max]', () => {
    const steps = valuesOf(tensors, 'dt_proj.bias').map((value) => Math.log1p(Math.exp(value)));
    expect(Math.min(...steps)).toBeGreaterThanOrEqual(0.001 * (1 - 1e-5));
    expect(Math.max(...steps)).toBeLessThanOrEqual(0.1 * (1 + 1e-5));
    const logarithms = steps.map((step) => Math.log(step));
    const [low, high] = [Math.log(0.001), Math.log(0.1)];
    expectUniform(
      logarithms.map((value) => value - (low + high) / 2),
      (high - low) / 2,
    );
  });

  it('time_step_floor, time_step_scale and the constant scheme', () => {
    const floored = tensorsOf(CONFIG.with({ timeStepFloor: 0.05 }));
    const steps = valuesOf(floored, 'dt_proj.bias').map((value) => Math.log1p(Math.exp(value)));
    expect(Math.min(...steps)).toBeCloseTo(0.05, 6);
    const constant = tensorsOf(CONFIG.with({ timeStepInitScheme: 'constant', timeStepScale: 3 }));
    expect(new Set(valuesOf(constant, 'dt_proj.weight'))).toEqual(new Set([1.5]));
  });

  it('a seed gives the same values, another seed others', () => {
    expect(tensorsOf(CONFIG)).toEqual(tensors);
    const other = tensorsOf(CONFIG, 1);
    for (const suffix of ['in_proj.weight', 'dt_proj.bias', 'out_proj.weight', 'conv1d.weight']) {
      expect(valuesOf(other, suffix)).not.toEqual(valuesOf(tensors, suffix));
    }
    const [first, second] = ['0', '1'].map((layer) => tensors.get(`backbone.layers.${layer}.mixer.in_proj.weight`));
    expect(first).not.toEqual(second);
  });
});
