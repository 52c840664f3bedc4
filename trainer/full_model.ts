// SPDX-License-Identifier: Apache-2.0
/** A whole model that trains, in the place of an adapter (`adapter.type: full`). */
import type { Variable } from '@tensorflow/tfjs-core';
import type { ParameterCounts, PeftModel } from '../adapters/index.ts';
import { replaceFolderAtomic } from '../src/files.ts';
import type { MambaForCausalLM } from '../src/model/causal_lm.ts';

/** The part of {@link PeftModel} that a run needs of what it trains. */
export interface TrainedModel {
  readonly model: MambaForCausalLM;
  /** Settings that a resumed run must agree with. */
  readonly config: Pick<PeftModel['config'], 'toJSON'>;
  /** Name of the run's folder for what it has trained. */
  readonly outputName: 'adapter' | 'model';
  savePretrained(folder: string): Promise<void>;
  counts(): ParameterCounts;
}

/** An adapter as a run takes it. */
export function trainedAdapter(peftModel: PeftModel): TrainedModel {
  return {
    model: peftModel.model,
    config: peftModel.config,
    outputName: 'adapter',
    savePretrained: (folder) => peftModel.savePretrained(folder),
    counts: () => peftModel.counts(),
  };
}

/**
 * Has every parameter of a model train. It is written as a Hugging Face model folder.
 * @param extraFiles to copy into that folder: the tokenizer's
 */
export function fullModel(model: MambaForCausalLM, extraFiles: readonly string[]): TrainedModel {
  for (const parameter of model.parameters.values()) parameter.trainable = true;
  return {
    model,
    config: { toJSON: () => ({ type: 'full' }) },
    outputName: 'model',
    savePretrained: (folder) =>
      replaceFolderAtomic(folder, (temporary) => model.savePretrained(temporary, { extraFiles })),
    counts: () => countsOf(model.parameters.values()),
  };
}

function countsOf(parameters: Iterable<Variable>): ParameterCounts {
  const all = [...parameters].reduce((sum, { size }) => sum + size, 0);
  return { trainable: all, all, percent: 100 };
}
