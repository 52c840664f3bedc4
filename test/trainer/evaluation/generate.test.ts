// SPDX-License-Identifier: Apache-2.0
/** A generate job: its answers end at `until`, and so does the work. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, expect, it } from 'vitest';
import { evalSectionSchema, type GenerateJob } from '../../../src/config/eval_schema.ts';
import { stream } from '../../../src/generation/index.ts';
import { MambaForCausalLM } from '../../../src/model/causal_lm.ts';
import { AutoTokenizer, type Tokenizer } from '../../../src/tokenizer/tokenizer.ts';
import { prepareGenerate } from '../../../trainer/evaluation/generate.ts';
import { bestBackend } from '../../helpers/backends.ts';
import { temporaryFolder } from '../../helpers/temporary_folder.ts';

const PROMPTS = ['love, n.', 'lawyer, n. One', 'The'];
const MOST = 24;

let model: MambaForCausalLM;
let tokenizer: Tokenizer;
/** What the model writes after each prompt without an end, as pieces of text. */
const free: string[][] = PROMPTS.map(() => []);
beforeAll(async () => {
  model = await MambaForCausalLM.fromPretrained('models/mamba-5m', { backend: bestBackend });
  tokenizer = await AutoTokenizer.fromPretrained('models/mamba-5m');
  const ids = PROMPTS.map((prompt) => tokenizer.encode(prompt));
  for await (const { row, text } of stream(model, ids, { maxNewTokens: MOST, tokenizer })) free[row]?.push(text ?? '');
  return () => model.dispose();
});

/** Whether each answer is right, and the number of positions after the first that were written. */
async function run(answers: string[], until: string[]): Promise<{ right: boolean[]; steps: number }> {
  const path = join(temporaryFolder(), 'items.jsonl');
  writeFileSync(path, PROMPTS.map((prompt, i) => JSON.stringify({ prompt, answer: answers[i] })).join('\n'));
  const job = { type: 'generate', data: { path }, max_new_tokens: MOST, until, metrics: ['exact_match'] };
  const [parsed] = evalSectionSchema.parse({ jobs: [job] }).jobs as GenerateJob[];
  const context = { tokenizer, vocabSize: model.config.vocabSize, seed: 0, onMessage: () => {} };
  const prepared = await prepareGenerate(parsed as GenerateJob, context);
  const before = tf.memory().numTensors;
  let steps = 0;
  const signal = { throwIfAborted: () => steps++, aborted: false } as unknown as AbortSignal;
  const rows = await prepared.run(model, { batchSize: 1, window: 64, signal });
  expect(tf.memory().numTensors).toBe(before);
  return { right: rows.map((row) => row[1] === 1), steps };
}

it('without until an answer is all that was written', async () => {
  const { right } = await run(
    free.map((pieces) => pieces.join('')),
    [],
  );
  expect(right).toEqual([true, true, true]);
});

it('until ends an answer before it, and its text is not written on', async () => {
  const texts = free.map((pieces) => pieces.join(''));
  const whole = await run(texts, ['\u2603']);
  expect(whole.right).toEqual([true, true, true]);
  const until = texts.map((text) => text.slice(5, 8));
  const cut = texts.map((text) =>
    text.slice(0, Math.min(...until.map((end) => text.indexOf(end)).filter((at) => at >= 0))),
  );
  const { right, steps } = await run(cut, until);
  expect(right).toEqual([true, true, true]);
  expect(steps).toBeLessThan(whole.steps / 2);
});

it('until may be a special token, which no text shows', async () => {
  const first = (await model.generate([tokenizer.encode(PROMPTS[0] as string)], { maxNewTokens: 3 }))[0]?.at(
    -1,
  ) as number;
  const special = '<|stop|>';
  const own = tokenizer;
  tokenizer = Object.assign((text: string | readonly string[]) => own(text), own, {
    tokenToId: (token: string) => (token === special ? first : own.tokenToId(token)),
  });
  try {
    const texts = free.map((pieces) => pieces.join(''));
    texts[0] = (free[0] as string[]).slice(0, 2).join('');
    expect((await run(texts, [special])).right[0]).toBe(true);
  } finally {
    tokenizer = own;
  }
});
