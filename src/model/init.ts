// SPDX-License-Identifier: Apache-2.0
/** Random initialisation of a model, as in the reference (`_init_weights` of transformers' MambaPreTrainedModel). */
import { expectedTensors } from '../checkpoint/expected_tensors.ts';
import { createRandom, type Random, randomStreams } from '../random.ts';
import type { MambaConfig } from './config.ts';

/**
 * Values for every tensor of a model: embeddings and projections normal(initializer_range); conv1d and out_proj uniform(±1/sqrt(fan_in)),
 * out_proj divided by sqrt(n_layer) when `rescale_prenorm_residual`; A_log = log(1..d_state); D and norms 1; dt_proj uniform (or
 * constant) of dt_rank^-0.5 * time_step_scale, its bias the inverse softplus of a step size drawn log-uniformly from
 * [time_step_min, time_step_max] and not below time_step_floor; other biases 0.
 *
 * @param seed of the random stream; each tensor draws from a substream of its own
 */
export function* initialTensors(
  config: MambaConfig,
  seed: number,
): Generator<{ name: string; shape: number[]; data: Float32Array }> {
  let substream = 0;
  for (const [name, shape] of expectedTensors(config)) {
    const random = createRandom({ seed, stream: randomStreams.init, substream: substream++ });
    const size = shape.reduce((product, length) => product * length, 1);
    const draw = drawOf(name, shape, config, random);
    const data = new Float32Array(size);
    for (let i = 0; i < size; i++) data[i] = draw(i);
    yield { name, shape, data };
  }
}

function drawOf(name: string, shape: number[], config: MambaConfig, random: Random): (index: number) => number {
  const fanIn = shape.slice(1).reduce((product, length) => product * length, 1);
  if (name.endsWith('.A_log')) return (i) => Math.log((i % config.stateSize) + 1);
  if (name.endsWith('.D') || name.endsWith('.norm.weight') || name.endsWith('.norm_f.weight')) return () => 1;
  if (name.endsWith('.dt_proj.weight')) {
    const bound = config.timeStepRank ** -0.5 * config.timeStepScale;
    return config.timeStepInitScheme === 'constant' ? () => bound : () => uniform(random, bound);
  }
  if (name.endsWith('.dt_proj.bias')) return () => inverseSoftplus(stepSize(config, random));
  if (name.endsWith('.conv1d.weight')) return () => uniform(random, 1 / Math.sqrt(fanIn));
  if (name.endsWith('.out_proj.weight')) {
    const scale = config.rescalePrenormResidual ? 1 / Math.sqrt(config.numHiddenLayers) : 1;
    return () => uniform(random, scale / Math.sqrt(fanIn));
  }
  if (name.endsWith('.bias')) return () => 0;
  return () => random.normal() * config.initializerRange;
}

function uniform(random: Random, bound: number): number {
  return (2 * random.uniform() - 1) * bound;
}

function stepSize({ timeStepMin, timeStepMax, timeStepFloor }: MambaConfig, random: Random): number {
  const logarithm = Math.log(timeStepMin) + random.uniform() * (Math.log(timeStepMax) - Math.log(timeStepMin));
  return Math.max(Math.exp(logarithm), timeStepFloor);
}

function inverseSoftplus(y: number): number {
  return y + Math.log(-Math.expm1(-y));
}
