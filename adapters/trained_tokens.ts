// SPDX-License-Identifier: Apache-2.0
/** The tokens whose rows of the embeddings train with an adapter: trainable_token_indices of peft's LoraConfig. */
import { ConfigError } from '../src/errors.ts';
import { adapterKeys } from '../src/model/modules.ts';
import type { LoraConfig } from './lora_config.ts';
import { isPathEnd } from './module_names.ts';
import { type SavableModel, savedParameters } from './saved_parameters.ts';
import { targetedModules } from './targets.ts';

export interface TrainedTokens {
  /** Ids in the order of the rows. */
  indices: readonly number[];
  /** In adapter_model.safetensors, as peft writes it. */
  key: string;
  /** [indices.length, d_model] */
  shape: [number, number];
}

const EMBEDDINGS = 'backbone.embeddings';
const HEAD = 'lm_head';

/**
 * The tokens that a config has train on a model; null for none.
 * @param model the base model
 * @throws ConfigError when an id is outside the vocabulary, the option names other modules than the embeddings, or these (or a head that
 *   is tied to them) train in another way as well
 */
export function trainedTokens(model: SavableModel, config: LoraConfig): TrainedTokens | null {
  const { trainableTokenIndices: given } = config;
  if (given === null) return null;
  const isTied = !model.parameters.has(`${HEAD}.weight`);
  const indices = Array.isArray(given) ? given : indicesByModule(given as Record<string, readonly number[]>, isTied);
  const [vocabSize = 0, width = 0] = model.parameters.get(`${EMBEDDINGS}.weight`)?.shape ?? [];
  const outside = indices.filter((id) => id >= vocabSize);
  if (outside.length > 0)
    throw new ConfigError(
      `trainable_token_indices: ${outside.join(', ')} ${outside.length === 1 ? 'is' : 'are'} outside the vocabulary; the model has the ids 0 to ${vocabSize - 1}.`,
    );
  refuseOtherTraining(model, config, isTied);
  const key = adapterKeys({ kind: 'embedding', name: EMBEDDINGS }).tokens;
  return { indices, key, shape: [indices.length, width] };
}

/** Ids of an object from module names to ids: those of the embeddings, and perhaps the same of a head that is tied to them. */
function indicesByModule(given: Readonly<Record<string, readonly number[]>>, isTied: boolean): readonly number[] {
  const of = (module: string) => Object.entries(given).find(([name]) => isPathEnd(name, module))?.[1];
  const [ofEmbeddings, ofHead] = [of(EMBEDDINGS), of(HEAD)];
  const unknown = Object.keys(given).filter((name) => ![EMBEDDINGS, HEAD].some((module) => isPathEnd(name, module)));
  if (unknown.length > 0)
    throw new ConfigError(`trainable_token_indices: ${unknown.join(', ')} holds no tokens; embeddings is what does.`);
  if (!ofEmbeddings)
    throw new ConfigError(
      'trainable_token_indices: single rows of lm_head do not train by themselves; name the embeddings, whose rows a tied head shares, or put lm_head into modules_to_save.',
    );
  if (ofHead && !(isTied && ofHead.join() === ofEmbeddings.join()))
    throw new ConfigError(
      `trainable_token_indices: lm_head ${isTied ? 'is tied to the embeddings and can have no other rows than theirs' : 'has a matrix of its own, and single rows of it do not train; put it into modules_to_save'}; leave it out here.`,
    );
  return ofEmbeddings;
}

function refuseOtherTraining(model: SavableModel, config: LoraConfig, isTied: boolean): void {
  if (targetedModules(model, config).some(({ name }) => name === EMBEDDINGS))
    throw new ConfigError(
      'trainable_token_indices: target_modules adapts the embeddings already (nor does peft train single rows of adapted ones); take embeddings out of target_modules.',
    );
  const saved = savedParameters(model, config).map(({ name }) => name);
  const whole = [EMBEDDINGS, ...(isTied ? [HEAD] : [])].find((module) => saved.includes(`${module}.weight`));
  if (whole !== undefined)
    throw new ConfigError(
      `trainable_token_indices: modules_to_save trains ${whole} whole${whole === HEAD ? ', which would share the rows' : ' already'}; take it out of one of the two.`,
    );
}
