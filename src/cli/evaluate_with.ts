// SPDX-License-Identifier: Apache-2.0
/** Evaluates the model of a config. */
import * as tf from '@tensorflow/tfjs-core';
import { loadExamples } from '../../datasets/index.ts';
import { type Evaluation, evaluate, exampleOptions } from '../../trainer/index.ts';
import type { EvalConfig } from '../config/schema.ts';
import { ConfigError } from '../errors.ts';
import { AutoTokenizer } from '../tokenizer/tokenizer.ts';
import { loadModel } from './load_model.ts';

export interface ConfigEvaluation extends Evaluation {
  model: string;
  adapter: string | null;
  backend: string;
  /** The records' file, or folder or Hub id with its split. */
  dataset: string;
}

export interface EvaluationRequest {
  config: EvalConfig;
  /** Folder of an adapter; without one the base model is evaluated. */
  adapter?: string;
  /** Evaluate the first records only. Default all. */
  maxRecords?: number;
  signal: AbortSignal;
}

/**
 * @throws UserError when model, adapter or data are missing, damaged or do not fit; the signal's reason when it is aborted
 */
export async function evaluateWith(
  request: EvaluationRequest,
  onMessage: (line: string) => void,
): Promise<ConfigEvaluation> {
  const { config, adapter, maxRecords, signal } = request;
  const { data, trainer } = config;
  const { path, revision, matmul_precision: matmulPrecision } = config.model;
  if (data.eval === null) throw new ConfigError('data.eval is missing: the records to evaluate on');
  const tokenizer = await AutoTokenizer.fromPretrained(path, { revision, onMessage });
  const choice = { model: path, revision, adapter, backend: trainer.backend, matmulPrecision };
  const { model, name } = await loadModel(choice, onMessage);
  try {
    const options = { ...exampleOptions(data, trainer.seed, model.config.vocabSize), onMessage };
    const { examples, report, close } = await loadExamples(data.eval, tokenizer, options);
    const result = await evaluate(model, examples, {
      maxExamples: maxRecords,
      batchSize: trainer.per_device_eval_batch_size,
      isInterrupted: () => signal.aborted,
    });
    close?.();
    if (result === undefined) throw signal.reason;
    return { model: name, adapter: adapter ?? null, backend: tf.getBackend(), dataset: report.name, ...result };
  } finally {
    model.dispose();
  }
}
