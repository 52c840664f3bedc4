// SPDX-License-Identifier: Apache-2.0
/** The autograd engine's door: recording, gradients, checkpointing. */
import './gradients/all.ts';

export { hasKernel, runKernel } from './engine.ts';
export type { ValueAndGradients } from './tape.ts';
export { checkpoint, needsGradient, noGradient, valueAndGradients } from './tape.ts';
