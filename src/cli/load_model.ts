// SPDX-License-Identifier: Apache-2.0
/** Loads what a command runs: base model, adapter, tokenizer. */
import { PeftModel, readAdapterConfig } from '../../adapters/index.ts';
import type { MatmulPrecision } from '../backends/precision.ts';
import type { BackendChoice } from '../backends/select.ts';
import { ConfigError, UserError } from '../errors.ts';
import { MambaForCausalLM } from '../model/causal_lm.ts';
import type { WeightDtype } from '../model/parameters.ts';

export interface ModelChoice {
  /** Folder or Hub id of the base model; by default the one that the adapter names. */
  model?: string;
  revision?: string;
  /** Folder of an adapter. */
  adapter?: string;
  backend: BackendChoice;
  /** Of the weight matrices' values; default `float32`, as stored. */
  weights?: WeightDtype;
  /** Default `highest`. */
  matmulPrecision?: MatmulPrecision;
}

export interface LoadedModel {
  /** As the user or the adapter calls it. */
  name: string;
  model: MambaForCausalLM;
  /** Null without an adapter. */
  peftModel: PeftModel | null;
}

/**
 * Loads a base model, and attaches an adapter where there is one. `model.dispose()` frees both.
 *
 * @throws ConfigError when neither says which model
 * @throws UserError when one is missing or damaged, or they do not fit each other
 */
export async function loadModel(choice: ModelChoice, onMessage: (line: string) => void): Promise<LoadedModel> {
  const { adapter, backend, revision, weights, matmulPrecision } = choice;
  const name = baseNameOf(choice);
  const model = await explainNamedBase(choice, name, () =>
    MambaForCausalLM.fromPretrained(name, { backend, revision, dtype: weights, matmulPrecision, onMessage }),
  );
  try {
    return { name, model, peftModel: adapter === undefined ? null : PeftModel.fromPretrained(model, adapter) };
  } catch (error) {
    model.dispose();
    throw error;
  }
}

/**
 * Loads a base model, and says in an error that its name came from the adapter when it did.
 */
export async function explainNamedBase<T>(
  { model, adapter }: Pick<ModelChoice, 'model' | 'adapter'>,
  name: string,
  load: () => T | Promise<T>,
): Promise<T> {
  try {
    return await load();
  } catch (error) {
    if (model !== undefined || !(error instanceof UserError)) throw error;
    const message = `the adapter ${adapter} names ${name} as its base model: ${error.message} Another place of it can be given with --model.`;
    throw new UserError(message, { exitCode: error.exitCode, cause: error });
  }
}

/**
 * The base model as the user or the adapter calls it.
 * @throws ConfigError when neither says
 */
export function baseNameOf({ model, adapter }: Pick<ModelChoice, 'model' | 'adapter'>): string {
  if (model !== undefined) return model;
  if (adapter === undefined) {
    throw new ConfigError(
      'found neither --model nor --adapter; give --model, a folder or Hub id such as models/mamba-5m or state-spaces/mamba-130m-hf.',
    );
  }
  const name = readAdapterConfig(adapter).baseModelNameOrPath;
  if (name === null || name === '') {
    throw new ConfigError(`the adapter ${adapter} does not name its base model; give it with --model.`);
  }
  return name;
}
