// SPDX-License-Identifier: Apache-2.0
/** Multiple choice against lm-evaluation-harness and its own HF model, on the same items. */
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, inject, it } from 'vitest';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts';
import { totalOf } from '../../trainer/evaluation/bootstrap.ts';
import { encodePair, prepareMultipleChoice } from '../../trainer/evaluation/multiple_choice.ts';
import { scoreSequences } from '../../trainer/evaluation/score.ts';
import { bestBackend } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';

interface Item {
  context: string;
  choices: string[];
  answer: number;
}

type Answer = { acc: number; acc_norm: number; likelihoods: number[][] } | { missing: string };

const interpreter = inject('python');
const MODEL = 'models/mamba-5m';
/** Tokens that depend on where the context is cut, and texts of several bytes a character. */
const TRICKY: Item[] = [
  { context: 'The cat sat on the ', choices: ['mat.', ' mat.', 'unbelievably long sofa of somebody else.'], answer: 0 },
  { context: '', choices: ['A state of peace.', 'zzz'], answer: 0 },
  { context: 'café, n.', choices: ['Ein Ort für Gespräche 😀.', 'Löwe', 'l'], answer: 1 },
  { context: 'one\n\n', choices: ['two', 'three'], answer: 1 },
];

function askHarness(items: string, target_delimiter: string): Answer {
  const script = new URL('lm_eval_scores.py', import.meta.url).pathname;
  const { stdout, stderr, status } = spawnSync(interpreter as string, [script], {
    input: JSON.stringify({ model: MODEL, items, target_delimiter }),
    encoding: 'utf8',
    maxBuffer: 1 << 26,
    env: { ...process.env, HF_HUB_OFFLINE: '1', HF_DATASETS_OFFLINE: '1' },
  });
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout) as Answer;
}

describe.runIf(interpreter)('multiple_choice', () => {
  it.for([' ', ''])('with delimiter %j agrees with lm_eval', async (target_delimiter, { skip }) => {
    const quickstart = readFileSync('datasets/quickstart/multiple_choice.jsonl', 'utf8').split('\n').slice(0, 4);
    const items = [...quickstart.map((line) => JSON.parse(line) as Item), ...TRICKY];
    const path = join(temporaryFolder(), 'items.jsonl');
    writeFileSync(path, items.map((item) => `${JSON.stringify(item)}\n`).join(''));

    const theirs = askHarness(path, target_delimiter);
    if ('missing' in theirs) {
      const rule = '='.repeat(100);
      process.stderr.write(
        `\n${rule}\nNOT COMPARED WITH lm_eval, which cannot be imported: ${theirs.missing}\n${rule}\n\n`,
      );
      return skip();
    }
    const tokenizer = loadTokenizer(MODEL);
    const model = await MambaForCausalLM.fromPretrained(MODEL, { backend: bestBackend });
    const options = { batchSize: 5, window: 512, padTokenId: 0 };
    const sequences = items.flatMap(({ context, choices }) =>
      choices.map((choice) => {
        const pair = encodePair(tokenizer, context, target_delimiter + choice, 'item');
        const ids = [...pair.context, ...pair.continuation];
        const labels = Int32Array.from([...pair.context.map(() => -100), ...pair.continuation]);
        return { inputIds: Int32Array.from(ids), labels };
      }),
    );
    const losses = (await scoreSequences(model, sequences, options)).map((blocks) =>
      blocks.reduce((sum, { loss }) => sum + loss, 0),
    );
    expectClose(
      losses.map((loss) => -loss),
      theirs.likelihoods.flat(),
      { rtol: 0, atol: 1e-3, name: 'log-likelihoods' },
    );

    const job = await prepareMultipleChoice(
      {
        ...{ type: 'multiple_choice', name: null, data: { path }, limit: null, gate: null, target_delimiter },
        ...{ context_field: 'context', choices_field: 'choices', answer_field: 'answer' },
      },
      { tokenizer, vocabSize: model.config.vocabSize, seed: 0, onMessage: () => {} },
    );
    const sums = totalOf(await job.run(model, options));
    const found = job.metrics.map(({ of }) => of(sums));
    expectClose(found, [theirs.acc, theirs.acc_norm], { rtol: 0, atol: 1e-3, name: 'acc, acc_norm' });
    model.dispose();
  });
});
