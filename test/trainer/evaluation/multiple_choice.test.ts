// SPDX-License-Identifier: Apache-2.0
/** Tokens of context and continuation, scores by hand, and items that cannot be read. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { MultipleChoiceJob } from '../../../src/config/eval_schema.ts';
import { UserError } from '../../../src/errors.ts';
import type { MambaForCausalLM } from '../../../src/model/causal_lm.ts';
import { loadTokenizer } from '../../../src/tokenizer/tokenizer.ts';
import { totalOf } from '../../../trainer/evaluation/bootstrap.ts';
import { encodePair, prepareMultipleChoice } from '../../../trainer/evaluation/multiple_choice.ts';
import { temporaryFolder } from '../../helpers/temporary_folder.ts';

const tokenizer = loadTokenizer('models/mamba-5m');
const context = { tokenizer, vocabSize: tokenizer.vocabSize, seed: 0, onMessage: () => {} };

function jobOf(path: string, changes: Partial<MultipleChoiceJob> = {}): MultipleChoiceJob {
  return {
    type: 'multiple_choice',
    name: null,
    data: { path },
    context_field: 'context',
    choices_field: 'choices',
    answer_field: 'answer',
    target_delimiter: ' ',
    limit: null,
    gate: null,
    ...changes,
  };
}

function write(items: unknown[]): string {
  const path = join(temporaryFolder(), 'items.jsonl');
  writeFileSync(path, items.map((item) => JSON.stringify(item)).join('\n'));
  return path;
}

describe('encodePair', () => {
  it('gives spaces at the end of the context to the continuation', () => {
    const plain = encodePair(tokenizer, 'a dog', ' barks', 'here');
    expect(encodePair(tokenizer, 'a dog ', 'barks', 'here')).toEqual(plain);
    expect(plain.context).toEqual(tokenizer.encode('a dog'));
    expect([...plain.context, ...plain.continuation]).toEqual(tokenizer.encode('a dog barks'));
  });

  it('an empty context is the begin-of-text token', () => {
    const { context, continuation } = encodePair(tokenizer, '', ' barks', 'here');
    expect(context).toEqual([tokenizer.bosTokenId]);
    expect(continuation).toEqual(tokenizer.encode(' barks'));
  });

  it('refuses a pair that leaves nothing to score, or nothing to score it after', () => {
    expect(() => encodePair(tokenizer, 'a', '', 'file:3')).toThrow(/^file:3: no token of "" is left/);
    expect(() => encodePair(tokenizer, '  ', 'b', 'file:3')).toThrow(/^file:3: the context holds nothing but spaces/);
  });
});

describe('acc and acc_norm', () => {
  /** A model for which every token costs one nat, so that the choice with the fewest tokens is likeliest. */
  const model = {
    setDropout: () => {},
    positionLosses: (_: unknown, targets: Int32Array) => ({
      losses: Float32Array.from(
        targets.filter((target) => target >= 0),
        () => 1,
      ),
    }),
  } as unknown as MambaForCausalLM;

  it('take the likeliest choice, and the likeliest per character', async () => {
    const [short, long] = ['a', 'a university student in the United States'];
    const items = [
      { context: 'noun', choices: [short, long], answer: 0 },
      { context: 'noun', choices: [short, long], answer: 1 },
      { context: 'noun', choices: [long, short], answer: 0 },
      { context: 'noun', choices: [short, short, long], answer: 1 },
    ];
    const job = await prepareMultipleChoice(jobOf(write(items)), context);
    const units = await job.run(model, { batchSize: 3, window: 4 });
    expect(units.map((unit) => [...unit])).toEqual([
      [1, 1, 0],
      [1, 0, 1],
      [1, 0, 1],
      [1, 0, 0],
    ]);
    expect(job.metrics.map(({ name, of }) => [name, of(totalOf(units))])).toEqual([
      ['acc', 0.25],
      ['acc_norm', 0.5],
    ]);
    expect(job).toMatchObject({ name: 'multiple_choice', records: 4 });
    expect(await prepareMultipleChoice(jobOf(write(items), { limit: 2 }), context)).toMatchObject({ records: 2 });
  });
});

describe('an item is refused', () => {
  const good = { context: 'noun', choices: ['a', 'b'], answer: 0 };
  it.each<[item: unknown, message: RegExp]>([
    [{ ...good, choices: ['a'] }, /items\.jsonl:2: choices has 1 of at least 2 texts/],
    [{ ...good, choices: [] }, /items\.jsonl:2: choices has 0 of at least 2/],
    [{ ...good, choices: 'a' }, /:2: choices is "a"; expected a list of strings/],
    [{ ...good, choices: ['a', 3] }, /:2: choices is \["a",3\]; expected a list of strings/],
    [{ ...good, choices: ['a', ''] }, /:2: choice 1 is an empty text/],
    [{ ...good, answer: 2 }, /:2: answer is 2; expected the position of one of the 2 choices, from 0 to 1/],
    [{ ...good, answer: -1 }, /:2: answer is -1; expected/],
    [{ ...good, answer: 'b' }, /:2: answer is "b"; expected the position/],
    [{ ...good, answer: 0.5 }, /:2: answer is 0\.5; expected/],
    [{ context: 'noun', choices: ['a', 'b'] }, /:2: there is no field answer; its fields are: context, choices/],
    [{ ...good, context: null }, /:2: context is null; expected a string/],
    [[1], /:2: found \[1\]; expected a JSON object/],
  ])('%j', async (item, message) => {
    const prepared = prepareMultipleChoice(jobOf(write([good, item])), context);
    await expect(prepared).rejects.toThrow(message);
    await expect(prepared).rejects.toBeInstanceOf(UserError);
  });

  it('when there is none', async () => {
    await expect(prepareMultipleChoice(jobOf(write([])), context)).rejects.toThrow(/the file has no items/);
  });
});
