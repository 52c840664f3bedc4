// SPDX-License-Identifier: Apache-2.0
/** What the trainer asks of a model. */
import type { MambaForCausalLM } from '../src/model/causal_lm.ts';

/** The part of {@link MambaForCausalLM} that training and evaluation use. */
export type TrainableModel = Pick<
  MambaForCausalLM,
  | 'config'
  | 'lossSum'
  | 'lossSumOn'
  | 'upload'
  | 'hostBatch'
  | 'trainableParameters'
  | 'setDropout'
  | 'forward'
  | 'parameters'
>;
