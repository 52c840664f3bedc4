// SPDX-License-Identifier: Apache-2.0
/**
 * Multiple choice as lm-evaluation-harness defines it (lm_eval/api/model.py, api/task.py, 0.4): a choice's log-likelihood is that of its
 * tokens after the context's; `acc` counts the items whose likeliest choice is the answer, `acc_norm` after division by the
 * choice's length in characters. Of equally likely choices the first counts.
 */
import { IGNORE_INDEX } from '../../datasets/index.ts';
import type { MultipleChoiceJob } from '../../src/config/eval_schema.ts';
import { UserError } from '../../src/errors.ts';
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts';
import { fieldOf, type Item, readItems, textOf, textsOf } from './items.ts';
import { type JobContext, meanOf, type PreparedJob } from './job.ts';
import { scoreSequences } from './score.ts';

interface Question {
  choices: Choice[];
  /** Position of the right choice. */
  answer: number;
}

interface Choice {
  inputIds: Int32Array;
  /** -100 over the context. */
  labels: Int32Array;
  /** Characters of the choice's text. */
  length: number;
}

/** Units are items. Statistics: 1, whether acc counts it, whether acc_norm does. */
export async function prepareMultipleChoice(job: MultipleChoiceJob, { tokenizer }: JobContext): Promise<PreparedJob> {
  const items = await readItems(job.data.path, job.limit);
  const questions = items.map((item) => readQuestion(item, job, tokenizer));
  const choices = questions.flatMap((question) => question.choices);
  return {
    name: job.name ?? job.type,
    type: job.type,
    data: job.data.path,
    records: questions.length,
    metrics: [
      { name: 'acc', higherIsBetter: true, of: meanOf(1) },
      { name: 'acc_norm', higherIsBetter: true, of: meanOf(2) },
    ],
    run: async (model, options) => {
      const blocks = await scoreSequences(model, choices, { ...options, padTokenId: 0 });
      const likelihoods = blocks.map((parts) => -parts.reduce((sum, { loss }) => sum + loss, 0));
      let next = 0;
      return questions.map(({ choices, answer }) => {
        const own = likelihoods.slice(next, next + choices.length);
        next += choices.length;
        const normed = own.map((likelihood, at) => likelihood / (choices[at] as Choice).length);
        return Float64Array.of(1, Number(likeliest(own) === answer), Number(likeliest(normed) === answer));
      });
    },
  };
}

function readQuestion(item: Item, job: MultipleChoiceJob, tokenizer: Tokenizer): Question {
  const context = textOf(item, job.context_field);
  const choices = textsOf(item, job.choices_field, 2);
  const empty = choices.indexOf('');
  if (empty !== -1) throw new UserError(`${item.where}: choice ${empty} is an empty text; expected a text to score`);
  const answer = fieldOf(item, job.answer_field);
  if (!Number.isInteger(answer) || Number(answer) < 0 || Number(answer) >= choices.length) {
    throw new UserError(
      `${item.where}: ${job.answer_field} is ${JSON.stringify(answer)}; expected the position of one of the ${choices.length} choices, from 0 to ${choices.length - 1}`,
    );
  }
  return {
    answer: Number(answer),
    choices: choices.map((choice) => {
      const pair = encodePair(tokenizer, context, job.target_delimiter + choice, item.where);
      const inputIds = Int32Array.from([...pair.context, ...pair.continuation]);
      const labels = inputIds.map((id, at) => (at < pair.context.length ? IGNORE_INDEX : id));
      return { inputIds, labels, length: [...choice].length };
    }),
  };
}

/**
 * The tokens of a context and of its continuation: spaces at the context's end go to the continuation, both are tokenized together,
 * and the continuation has what comes after as many tokens as the context alone has. An empty context is the begin- or
 * end-of-text token.
 */
export function encodePair(
  tokenizer: Tokenizer,
  context: string,
  continuation: string,
  where: string,
): { context: number[]; continuation: number[] } {
  if (context === '') return encodeAlone(tokenizer, continuation, where);
  const contextIds = tokenizer.encode(context.trimEnd());
  const whole = tokenizer.encode(context + continuation);
  const rest = whole.slice(contextIds.length);
  if (contextIds.length > 0 && rest.length > 0) return { context: contextIds, continuation: rest };
  throw new UserError(
    contextIds.length === 0
      ? `${where}: the context holds nothing but spaces; expected a text, or an empty one`
      : `${where}: no token of ${JSON.stringify(continuation)} is left beside those of the context`,
  );
}

function encodeAlone(tokenizer: Tokenizer, continuation: string, where: string) {
  const prefix = tokenizer.bosTokenId ?? tokenizer.eosTokenId;
  const ids = tokenizer.encode(continuation, { addSpecialTokens: false });
  if (prefix === undefined) {
    throw new UserError(
      `${where}: the context is empty, and the tokenizer has no begin- or end-of-text token to stand for it`,
    );
  }
  return ids[0] === prefix
    ? { context: ids.slice(0, 1), continuation: ids.slice(1) }
    : { context: [prefix], continuation: ids };
}

function likeliest(values: readonly number[]): number {
  return values.reduce((best, value, at) => (value > (values[best] as number) ? at : best), 0);
}
