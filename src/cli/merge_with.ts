// SPDX-License-Identifier: Apache-2.0
/** The work of `mambatune merge`. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type MergeReceipt, mergeAdapter, type Probe, type TiedPolicy } from '../../adapters/index.ts';
import { type BackendChoice, selectBackend } from '../backends/select.ts';
import { ConfigError } from '../errors.ts';
import { readTextFile } from '../files.ts';
import { resolveModelFolder } from '../hub.ts';
import { formatNumber } from '../logging/format.ts';
import { openStreamedModel } from '../model/streamed_model.ts';
import { createRandom } from '../random.ts';
import { loadTokenizer, type Tokenizer } from '../tokenizer/tokenizer.ts';
import type { CliContext } from './context.ts';
import { baseNameOf, explainNamedBase } from './load_model.ts';
import { WEIGHT_DTYPES } from './options.ts';

export interface MergeRequest {
  adapter: string;
  /** Folder to write. */
  output: string;
  /** Folder or Hub id of the base model; by default the one that the adapter names. */
  model?: string;
  revision?: string;
  backend: BackendChoice;
  /** Default the base's. */
  dtype?: keyof typeof WEIGHT_DTYPES;
  /** Bytes. */
  maxShardSize: number;
  tiedEmbeddings: TiedPolicy;
  tolerance?: number;
  /** Text file to compare logits on. */
  probe?: string;
  peftCompatible?: boolean;
}

/** Most tokens that logits are compared on. */
const PROBE_TOKENS = 128;
const PROBE_TEXT =
  'The sea was calm in the morning, and by noon nobody on the island remembered the storm. "How long until the boat comes?" she asked. ' +
  'The merchant counted: 3 crates of oranges, 12 barrels of salt, 1 letter. Note: def area(width, height): return width * height. ' +
  'A dictionary gives for every word a meaning; for some of them it gives two, and the reader has to choose.';

/**
 * Merges, and compares what was written with base and adapter.
 * @returns the receipt
 * @throws UserError when the output cannot be written, or the merged model computes something else
 */
export async function mergeWith(context: CliContext, request: MergeRequest): Promise<object> {
  const { adapter, output, revision, dtype, maxShardSize, tiedEmbeddings, tolerance, peftCompatible } = request;
  const { info, warn } = context.logger;
  const name = baseNameOf(request);
  const folder = await explainNamedBase(request, name, () =>
    resolveModelFolder(name, { ...(revision !== undefined && { revision }), onMessage: info }),
  );
  info((await selectBackend(request.backend)).message);
  const base = await explainNamedBase(request, name, () => openStreamedModel(folder, name, revision ?? null));
  try {
    const tokenizer = existsSync(join(folder, 'tokenizer.json')) ? loadTokenizer(folder) : null;
    if (!tokenizer) warn('the base model has no tokenizer.json to copy; the merged model needs one to be used on text');
    const receipt = await mergeAdapter(base, adapter, output, probeOf(request, tokenizer, base.config.vocabSize), {
      ...(dtype && { dtype: WEIGHT_DTYPES[dtype] }),
      ...(tolerance !== undefined && { tolerance }),
      ...(peftCompatible && { peftCompatible }),
      ...(tokenizer && { extraFiles: tokenizer.files }),
      maxShardSize,
      tiedEmbeddings,
    });
    if (receipt.base_matches_adapter === false) {
      warn(`the adapter was made for other weights than ${name} has; the merged model is only as good as that base`);
    }
    context.print(describeReceipt(receipt, request, name));
    return { output, ...receipt };
  } finally {
    base.close();
  }
}

function probeOf({ probe }: MergeRequest, tokenizer: Tokenizer | null, vocabSize: number): Probe {
  if (tokenizer) {
    const inputIds = tokenizer.encode(probe === undefined ? PROBE_TEXT : readTextFile(probe)).slice(0, PROBE_TOKENS);
    if (inputIds.length === 0) throw new ConfigError(`--probe: ${probe} holds no text.`);
    return { source: probe ?? 'built-in text', inputIds };
  }
  if (probe !== undefined) {
    throw new ConfigError('--probe gives a text, and the base model has no tokenizer.json to read it with.');
  }
  const random = createRandom({ seed: 0 });
  return { source: 'random token ids', inputIds: Array.from({ length: PROBE_TOKENS }, () => random.below(vocabSize)) };
}

function describeReceipt(receipt: MergeReceipt, { adapter, output }: MergeRequest, name: string): string {
  const {
    merged_modules: merged,
    merged_tokens: tokens,
    adapter_modules: kept,
    tied_embeddings: tied,
    result,
    probe,
  } = receipt;
  const head = {
    unchanged: '',
    untied: 'the head is now a matrix of its own (lm_head.weight): it was tied to the adapted embeddings\n',
    'changed with the embeddings': `the head, still tied, changed with the embeddings: logits differ by up to ${formatNumber(receipt.max_abs_difference_to_untied ?? 0)} from base and adapter\n`,
  };
  return [
    `merged ${merged.length} modules of ${name} with ${adapter} into ${output} (${result.dtypes.join(', ')})\n`,
    tokens.length > 0 ? `merged the rows of ${tokens.length} tokens into the embeddings\n` : '',
    kept.length > 0
      ? `left ${kept.length} modules in ${join(output, 'adapter')} for peft, on ${join(output, 'model')}\n`
      : '',
    head[tied.head],
    `on ${probe.tokens} tokens of ${probe.source}: logits differ by up to ${formatNumber(receipt.max_abs_logit_difference)}, of logits up to ${formatNumber(receipt.largest_logit)}; `,
    `KL ${receipt.mean_kl_divergence.toExponential(1)}; the same likeliest token at ${formatNumber(100 * receipt.argmax_agreement)} %\n`,
  ].join('');
}
