// SPDX-License-Identifier: Apache-2.0
/** The generation's door. */
export { type GeneratedToken, generate, stream } from './generate.ts';
export { checkOptions, type GenerateOptions, randomSeed, type SamplingOptions } from './options.ts';
export { type GenerationState, loadState, readPrompt, saveState } from './state.ts';
