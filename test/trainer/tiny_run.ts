// SPDX-License-Identifier: Apache-2.0
/** Small real runs: the models and adapters of test/golden, trained on their batches. */
import { join } from 'node:path';
import { PeftModel } from '../../adapters/index.ts';
import type { Example, SequenceList } from '../../datasets/index.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { createCoverage } from '../../trainer/coverage.ts';
import { type LoopOptions, runLoop, type StepReport, type TrainingProgress } from '../../trainer/loop.ts';
import { type AdamwSettings, createAdamw } from '../../trainer/optimizer.ts';
import { type PlanOptions, planTraining } from '../../trainer/plan.ts';
import { readGolden } from '../golden/golden.ts';
import type { TestedBackend } from '../helpers/backends.ts';

/** The 12 rows of `train_batches` [4, 3, 24], labels = input_ids. */
export function goldenExamples(name: string): Example[] {
  const ids = readGolden(name).integers('train_batches');
  return Array.from({ length: 12 }, (_, row) => {
    const inputIds = ids.slice(row * 24, (row + 1) * 24);
    return { inputIds, labels: inputIds.slice(), promptLength: 0 };
  });
}

export async function goldenAdapter(name: string, backend: TestedBackend): Promise<PeftModel> {
  const { folder } = readGolden(name);
  const model = await MambaForCausalLM.fromPretrained(join(folder, 'model'), { backend });
  return PeftModel.fromPretrained(model, join(folder, 'adapter'), { trainable: true });
}

export interface TinyRunOptions extends Partial<AdamwSettings> {
  examples: SequenceList;
  learningRate?: number;
  plan?: Partial<PlanOptions>;
  loop?: Partial<LoopOptions>;
}

export interface TinyRun {
  reports: StepReport[];
  end: TrainingProgress;
}

/** Runs the loop: 1 step of batches of 3 in the given order unless `plan` says otherwise, AdamW as in golden.json. */
export async function tinyRun(model: MambaForCausalLM, options: TinyRunOptions): Promise<TinyRun> {
  const { examples, learningRate = 0.005, plan, loop, ...adamw } = options;
  const parameters = model.trainableParameters();
  const settings = { beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.01, maxGradNorm: 1, ...adamw };
  const optimizer = createAdamw(parameters, settings);
  const reports: StepReport[] = [];
  try {
    const end = await runLoop({
      model,
      cudaGraphs: true,
      plan: planTraining({
        examples: examples.length,
        batchSize: 3,
        accumulationSteps: 1,
        epochs: 1,
        maxSteps: 1,
        seed: 0,
        shuffle: false,
        ...plan,
      }),
      examples,
      padTokenId: 0,
      seed: 0,
      schedule: () => learningRate,
      optimizer,
      coverage: createCoverage(parameters),
      shouldStop: () => false,
      onStep: async (report) => {
        if (report.failure !== undefined) throw new Error(report.failure);
        reports.push(report);
        return undefined;
      },
      afterStep: async () => {},
      ...loop,
    });
    return { reports, end };
  } finally {
    optimizer.dispose();
  }
}

/** The values of every trainable parameter, by name. */
export function trainedValues(model: MambaForCausalLM): Map<string, Float32Array> {
  return new Map(
    Array.from(model.trainableParameters(), ([name, variable]) => [name, variable.dataSync<'float32'>().slice()]),
  );
}
