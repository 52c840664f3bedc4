// SPDX-License-Identifier: Apache-2.0
/** The generation's door. */
export { type GeneratedToken, type GenerateOptions, generate, stream } from './generate.ts';
export { checkSamplingOptions, randomSeed, type SamplingOptions } from './sampling.ts';
