// SPDX-License-Identifier: Apache-2.0
/** Loss and perplexity of documents of any length. */
import { countLossTokens, loadExamples, type Sequence } from '../../datasets/index.ts';
import type { PerplexityJob } from '../../src/config/eval_schema.ts';
import type { EvalConfig } from '../../src/config/schema.ts';
import { ConfigError } from '../../src/errors.ts';
import { exampleOptions } from '../run.ts';
import { type JobContext, meanOf, type PreparedJob } from './job.ts';
import { scoreSequences } from './score.ts';

/** Units are windows of documents. Statistics: tokens, their summed loss. */
export async function preparePerplexity(
  job: PerplexityJob,
  data: EvalConfig['data'],
  { tokenizer, vocabSize, seed, onMessage }: JobContext,
): Promise<PreparedJob> {
  const source = job.data ?? data.eval;
  if (source === null) throw new ConfigError('a perplexity job needs documents: its own data, or data.eval');
  const settings = { ...data, max_length: job.max_length ?? Number.MAX_SAFE_INTEGER };
  const options = { ...exampleOptions(settings, seed, vocabSize), onMessage };
  const { examples: all, report, close } = await loadExamples(source, tokenizer, options);
  const count = Math.min(all.length, job.limit ?? all.length);
  const examples = Array.from({ length: count }, (_, index) => all.at(index) as Sequence);
  close?.();
  const loss = meanOf(1);
  return {
    name: job.name ?? job.type,
    type: job.type,
    data: report.name,
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
