// SPDX-License-Identifier: Apache-2.0
/** Loss and perplexity of documents of any length. */
import { countLossTokens, loadDatasetSource } from '../../datasets/index.ts';
import type { PerplexityJob } from '../../src/config/eval_schema.ts';
import type { EvalConfig } from '../../src/config/schema.ts';
import { ConfigError } from '../../src/errors.ts';
import { loadExamples } from '../run.ts';
import { type JobContext, meanOf, type PreparedJob } from './job.ts';
import { scoreSequences } from './score.ts';

/** Units are windows of documents. Statistics: tokens, their summed loss. */
export async function preparePerplexity(
  job: PerplexityJob,
  data: EvalConfig['data'],
  { tokenizer, vocabSize, onMessage }: JobContext,
): Promise<PreparedJob> {
  const source = job.data ?? data.eval;
  if (source === null) throw new ConfigError('a perplexity job needs documents: its own data, or data.eval');
  const dataset = await loadDatasetSource(source, { onMessage });
  const settings = { ...data, max_length: job.max_length ?? Number.MAX_SAFE_INTEGER };
  const { examples: all } = loadExamples(dataset, tokenizer, settings, vocabSize, onMessage);
  const examples = all.slice(0, job.limit ?? undefined);
  const loss = meanOf(1);
  return {
    name: job.name ?? job.type,
    type: job.type,
    data: dataset.name,
    records: examples.length,
    tokens: examples.reduce((sum, { labels }) => sum + countLossTokens(labels), 0),
    metrics: [
      { name: 'loss', higherIsBetter: false, of: loss },
      { name: 'perplexity', higherIsBetter: false, of: (sums) => Math.exp(loss(sums)) },
    ],
    run: async (model, options) => {
      const blocks = await scoreSequences(model, examples, { ...options, padTokenId: 0 });
      return blocks.flat().map(({ loss, tokens }) => Float64Array.of(tokens, loss));
    },
  };
}
