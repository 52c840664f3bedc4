// SPDX-License-Identifier: Apache-2.0
/** The work of `mambatune merge`: merges, writes, loads what was written and compares its logits. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { mergeAndSave, type PeftModel } from '../../adapters/index.ts';
import { UserError } from '../errors.ts';
import { formatNumber } from '../logging/format.ts';
import { MambaForCausalLM } from '../model/causal_lm.ts';
import { createRandom } from '../random.ts';
import { loadTokenizer } from '../tokenizer/tokenizer.ts';
import type { CliContext } from './context.ts';
import { loadModel, type ModelChoice } from './load_model.ts';
import { WEIGHT_DTYPES } from './options.ts';

export interface MergeRequest extends ModelChoice {
  adapter: string;
  /** Folder to write. */
  output: string;
  dtype: keyof typeof WEIGHT_DTYPES;
}

/** Rows and columns of the token ids that the logits are compared on. */
const PROBE = { rows: 2, seqlen: 32 };
/** Largest difference allowed in float32, relative to the largest logit: rounding of the merged weights. */
const TOLERANCE = 1e-4;

/**
 * @returns what --json shows
 * @throws UserError when the output cannot be written, or the merged model computes something else
 */
export async function mergeWith(context: CliContext, request: MergeRequest): Promise<object> {
  const { adapter, output, dtype } = request;
  const { model, peftModel, name } = await loadModel(request, context.logger.info);
  const probe = probeIds(model.config.vocabSize);
  let merged: Awaited<ReturnType<typeof mergeAndSave>>;
  let wanted: Float32Array;
  try {
    wanted = await logitsOf(model, probe);
    const extraFiles = tokenizerFiles(model.source.folder, context);
    merged = await mergeAndSave(peftModel as PeftModel, output, { dtype: WEIGHT_DTYPES[dtype], extraFiles });
  } finally {
    model.dispose();
  }
  const difference = await compareWritten(output, request, probe, wanted);
  const { untied } = merged;
  context.print(`merged ${merged.merged.length} modules of ${name} with ${adapter} into ${output} (${dtype})\n`);
  if (untied)
    context.print('the head is now a matrix of its own (lm_head.weight): it was tied to the adapted embeddings\n');
  context.print(`logits against base and adapter: largest difference ${formatNumber(difference.absolute)}, `);
  context.print(`of logits up to ${formatNumber(difference.largest)}\n`);
  return { model: name, adapter, output, dtype, ...merged, maxLogitDifference: difference.absolute };
}

function probeIds(vocabSize: number): number[][] {
  const random = createRandom({ seed: 0 });
  return Array.from({ length: PROBE.rows }, () => Array.from({ length: PROBE.seqlen }, () => random.below(vocabSize)));
}

async function logitsOf(model: MambaForCausalLM, inputIds: number[][]): Promise<Float32Array> {
  const { logits } = model.forward({ inputIds });
  const values = await logits.data<'float32'>();
  logits.dispose();
  return values;
}

async function compareWritten(
  folder: string,
  { dtype, backend }: MergeRequest,
  probe: number[][],
  wanted: Float32Array,
): Promise<{ absolute: number; largest: number }> {
  const model = await MambaForCausalLM.fromPretrained(folder, { backend });
  const found = await logitsOf(model, probe);
  model.dispose();
  const largest = wanted.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  const absolute = wanted.reduce(
    (max, value, index) => Math.max(max, Math.abs(value - (found[index] ?? Number.NaN))),
    0,
  );
  if (Number.isFinite(absolute) && (dtype !== 'float32' || absolute <= TOLERANCE * largest))
    return { absolute, largest };
  throw new UserError(
    `${folder}: the merged model's logits differ by ${absolute} from those of base and adapter, of logits up to ${largest}; do not use it. Please report this.`,
  );
}

function tokenizerFiles(folder: string | null, { logger }: CliContext): readonly string[] {
  if (folder !== null && existsSync(join(folder, 'tokenizer.json'))) return loadTokenizer(folder).files;
  logger.warn('the base model has no tokenizer.json to copy; the merged model needs one to be used on text');
  return [];
}
