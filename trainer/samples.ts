// SPDX-License-Identifier: Apache-2.0
/** Texts that the model in training writes, to see what it learns. */
import { generate } from '../src/generation/index.ts';
import type { MambaForCausalLM } from '../src/model/causal_lm.ts';
import type { Tokenizer } from '../src/tokenizer/tokenizer.ts';
import type { TrainerSettings } from './training_job.ts';

export interface Sample {
  prompt: string;
  /** What follows the prompt; without special tokens. */
  completion: string;
}

/**
 * Continues each of sample_prompts: greedily for sample_temperature 0, otherwise drawn from trainer.seed, the same at each call.
 * @throws UserError when a prompt has no token
 */
export async function generateSamples(
  model: MambaForCausalLM,
  tokenizer: Tokenizer,
  settings: TrainerSettings,
): Promise<Sample[]> {
  const { sample_prompts: prompts, sample_max_new_tokens: maxNewTokens, sample_temperature: temperature } = settings;
  if (prompts === null) return [];
  model.setDropout(null);
  const inputIds = prompts.map((prompt) => tokenizer.encode(prompt));
  const sampling = temperature > 0 ? { doSample: true, temperature, topK: 0, seed: settings.seed } : {};
  const rows = await generate(model, inputIds, { maxNewTokens, ...sampling });
  return prompts.map((prompt, i) => ({
    prompt,
    completion: tokenizer.decode((rows[i] ?? []).slice(inputIds[i]?.length), { skipSpecialTokens: true }),
  }));
}
