// SPDX-License-Identifier: Apache-2.0
/** What a model writes, against reference answers. */
import { batchesOf } from '../../datasets/index.ts';
import type { GenerateJob } from '../../src/config/eval_schema.ts';
import { UserError } from '../../src/errors.ts';
import { stream } from '../../src/generation/index.ts';
import type { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts';
import { fieldOf, type Item, readItems, textOf, textsOf } from './items.ts';
import { type JobContext, type JobMetric, meanOf, type PreparedJob, type RunOptions } from './job.ts';
import { chrf, chrfStatistics, exactMatch, rougeL } from './text_metrics.ts';

const FIRST_CHRF = 3;
const METRICS: Record<GenerateJob['metrics'][number], JobMetric> = {
  exact_match: { name: 'exact_match', higherIsBetter: true, of: meanOf(1) },
  rougeL: { name: 'rougeL', higherIsBetter: true, of: meanOf(2) },
  chrf: { name: 'chrf', higherIsBetter: true, of: (sums) => chrf(sums.subarray(FIRST_CHRF)) },
};

/** Units are items. Statistics: 1, exact match, ROUGE-L, and what chrF adds up. */
export async function prepareGenerate(job: GenerateJob, { tokenizer }: JobContext): Promise<PreparedJob> {
  const items = await readItems(job.data.path, job.limit);
  const prompts = items.map((item) => promptOf(item, job, (text) => tokenizer.encode(text)));
  const references = items.map((item) => referencesOf(item, job.answer_field));
  const matching = { ignoreCase: job.ignore_case, ignorePunctuation: job.ignore_punctuation };
  return {
    name: job.name ?? job.type,
    type: job.type,
    data: job.data.path,
    records: items.length,
    metrics: job.metrics.map((metric) => METRICS[metric]),
    run: async (model, options) => {
      const written = await continueAll(model, tokenizer, prompts, job, options);
      return written.map((text, at) => {
        const right = references[at] as string[];
        return Float64Array.of(
          1,
          Number(exactMatch(text, right, matching)),
          rougeL(text, right),
          ...chrfStatistics(text, right),
        );
      });
    },
  };
}

/** The texts that continue prompts, greedily, up to the first of `until`; those of like length together. */
async function continueAll(
  model: MambaForCausalLM,
  tokenizer: Tokenizer,
  prompts: readonly number[][],
  { max_new_tokens: maxNewTokens, until: stopStrings }: GenerateJob,
  { batchSize, signal, onProgress }: RunOptions,
): Promise<string[]> {
  const texts: string[][] = prompts.map(() => []);
  const byLength = Uint32Array.from(prompts.keys()).sort(
    (a, b) => (prompts[b]?.length ?? 0) - (prompts[a]?.length ?? 0) || a - b,
  );
  let done = 0;
  for (const indices of batchesOf(byLength, batchSize)) {
    const batch = Array.from(indices, (index) => prompts[index] as number[]);
    const options = { maxNewTokens, stopStrings, tokenizer, ...(signal && { signal }) };
    for await (const { row, text = '' } of stream(model, batch, options)) texts[indices[row] as number]?.push(text);
    done += indices.length;
    onProgress?.(done, prompts.length);
  }
  return texts.map((pieces) => pieces.join(''));
}

function promptOf(item: Item, job: GenerateJob, encode: (text: string) => number[]): number[] {
  const ids = encode(textOf(item, job.prompt_field));
  if (ids.length > 0) return ids;
  throw new UserError(`${item.where}: ${job.prompt_field} has no tokens; expected a text to continue`);
}

function referencesOf(item: Item, field: string): string[] {
  return typeof fieldOf(item, field) === 'string' ? [textOf(item, field)] : textsOf(item, field, 1);
}
