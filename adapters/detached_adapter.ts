// SPDX-License-Identifier: Apache-2.0
/** An adapter taken off its model and put on again: its tensors, and the tensors that stood in the place of base parameters. */
import type { Variable } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { MambaForCausalLM } from '../src/model/causal_lm.ts';
import { disposeLora, embeddingMatrix, type LoraWeights } from '../src/model/modules.ts';
import { EMBEDDING } from '../src/model/parameters.ts';
import { disposeTokens, forgetMatrix, type TokenRows } from '../src/model/token_rows.ts';
import { mergedBias, mergedWeight } from './merged_weight.ts';

export interface DetachedAdapter {
  /** By module name. */
  readonly loras: ReadonlyMap<string, LoraWeights>;
  /** What was in the place of base parameters, by checkpoint name. */
  readonly replaced: ReadonlyMap<string, Variable>;
  /** Rows of single tokens. */
  readonly tokens: TokenRows | null;
}

/** Takes what is attached off a model, which then is the base model. */
export function detach(model: MambaForCausalLM): DetachedAdapter {
  const loras = new Map<string, LoraWeights>();
  for (const module of model.modules.values()) {
    if (module.lora) loras.set(module.name, module.lora);
    module.lora = null;
  }
  const { embeddings } = model.backbone.layers;
  const { tokens } = embeddings;
  embeddings.tokens = null;
  if (tokens) forgetMatrix(tokens);
  return { loras, tokens, replaced: model.backbone.restoreParameters() };
}

/** Puts an adapter on a base model. */
export function reattach(model: MambaForCausalLM, { loras, tokens, replaced }: DetachedAdapter): void {
  for (const [name, lora] of loras) {
    const module = model.modules.get(name);
    if (module) module.lora = lora;
  }
  model.backbone.layers.embeddings.tokens = tokens;
  for (const [name, variable] of replaced) model.backbone.replaceParameter(name, variable);
}

export function disposeDetached({ loras, tokens, replaced }: DetachedAdapter): void {
  if (tokens) disposeTokens(tokens);
  for (const lora of loras.values()) disposeLora(lora);
  for (const variable of replaced.values()) variable.dispose();
}

/**
 * Takes the adapter off and puts weights with it folded in into the base's places.
 * @returns the adapter, and the new variables, which are the caller's to free after restoreParameters
 * @throws UserError when the base has no place for a bias of the adapter; the adapter is still on then
 */
export function mergeInPlace(model: MambaForCausalLM): { detached: DetachedAdapter; merged: Variable[] } {
  const merged = new Map<string, Variable>();
  const { embeddings } = model.backbone.layers;
  const frozen = (value: () => tf.Tensor) => tf.tidy(() => tf.variable(value(), false));
  try {
    for (const module of model.modules.values()) {
      const { lora, name } = module;
      if (!lora) continue;
      if (lora.bias)
        merged.set(
          `${name}.bias`,
          frozen(() => mergedBias(module) as tf.Tensor),
        );
      merged.set(
        `${name}.weight`,
        frozen(() => mergedWeight(module)),
      );
    }
    if (embeddings.tokens)
      merged.set(
        EMBEDDING,
        frozen(() => tf.clone(embeddingMatrix(embeddings))),
      );
  } catch (error) {
    tf.dispose([...merged.values()]);
    throw error;
  }
  const detached = detach(model);
  for (const [name, variable] of new Map([...detached.replaced, ...merged])) {
    model.backbone.replaceParameter(name, variable, name === EMBEDDING && detached.tokens !== null);
  }
  return { detached, merged: [...merged.values()] };
}
