// SPDX-License-Identifier: Apache-2.0
/** The work of `mambatune init`: a few questions, and a commented config of the answers. */
import { existsSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import { packageRoot } from '../backends/addon.ts';
import { commentedConfig } from '../config/commented.ts';
import { checkConfigText } from '../config/load.ts';
import { configJsonSchema } from '../config/schema.ts';
import { ConfigError } from '../errors.ts';
import { writeFileAtomic } from '../files.ts';
import { looksLikeRepo } from '../hub.ts';
import type { CliContext, CliIo } from './context.ts';

/** What --json shows. */
export interface WrittenConfig {
  config: string;
}

interface Answers {
  model: string;
  train: string;
  /** Undefined for none. */
  evaluation: string | undefined;
  outputDir: string;
  epochs: number;
}

/**
 * @param takeDefaults ask nothing
 * @throws ConfigError when the file exists, or there is nobody to ask
 */
export async function writeConfig(context: CliContext, path: string, takeDefaults: boolean): Promise<WrittenConfig> {
  if (existsSync(path)) throw new ConfigError(`${path} exists; give another name, or move it away.`);
  const defaults = defaultAnswers(path);
  const answers = takeDefaults ? defaults : await ask(context.io, defaults);
  const text = configText(path, answers);
  checkConfigText(path, text);
  writeFileAtomic(path, text);
  context.print(`${path}\nNext:  mambatune train ${path}\n`);
  return { config: path };
}

/** The quickstart's model and data, wherever the command is run. */
function defaultAnswers(path: string): Answers {
  const own = (...parts: string[]) => join(relative(process.cwd(), packageRoot()), ...parts);
  return {
    model: own('models', 'mamba-5m'),
    train: own('datasets', 'quickstart', 'train.jsonl'),
    evaluation: own('datasets', 'quickstart', 'test.jsonl'),
    outputDir: join('runs', basename(path).replace(/\.ya?ml$/, '')),
    epochs: 3,
  };
}

const NONE = '-';

async function ask(io: CliIo, defaults: Answers): Promise<Answers> {
  const lines = linesOf(io.stdin);
  /** Asks until an answer passes; an empty one is the default. */
  const question = async (text: string, preset: string, faultOf: (answer: string) => string | undefined) => {
    for (;;) {
      io.stderr.write(`${text} [${preset}] `);
      const { value, done } = await lines.next();
      if (done) {
        throw new ConfigError(
          'the answers end before the questions; answer all of them, or give --yes to take the defaults.',
        );
      }
      const answer = value.trim() === '' ? preset : value.trim();
      const fault = faultOf(answer);
      if (fault === undefined) return answer;
      io.stderr.write(`  ${fault}\n`);
    }
  };
  const place = (kind: string) => (answer: string) =>
    existsSync(answer) || looksLikeRepo(answer)
      ? undefined
      : `There is no ${answer} here, and it is no ${kind} of the Hub (owner/name).`;
  const model = await question('Base model, a folder or a Hub id', defaults.model, place('model'));
  const train = await question(
    'Records to train on, a file, a folder or a Hub dataset',
    defaults.train,
    place('dataset'),
  );
  const evaluation = await question(
    `Records to evaluate on, ${NONE} for none`,
    train === defaults.train ? String(defaults.evaluation) : NONE,
    (answer) => (answer === NONE ? undefined : place('dataset')(answer)),
  );
  const epochs = await question('Passes over the training records', String(defaults.epochs), (answer) =>
    Number(answer) > 0 ? undefined : 'Expected a number above 0.',
  );
  const outputDir = await question('Folder of the run', defaults.outputDir, () => undefined);
  return { model, train, evaluation: evaluation === NONE ? undefined : evaluation, outputDir, epochs: Number(epochs) };
}

function configText(path: string, { model, train, evaluation, outputDir, epochs }: Answers): string {
  const source = (answer: string) => (existsSync(answer) ? { path: answer } : { hub: answer });
  const isQuickstart = model === defaultAnswers(path).model;
  const values = {
    model: { path: model },
    adapter: { r: 8, lora_alpha: 8, lora_dropout: 0, target_modules: ['x_proj', 'embeddings', 'in_proj', 'out_proj'] },
    data: {
      train: source(train),
      eval: evaluation === undefined ? null : source(evaluation),
      max_length: isQuickstart ? 256 : 1024,
    },
    trainer: {
      output_dir: outputDir,
      seed: 42,
      num_train_epochs: epochs,
      per_device_train_batch_size: 4,
      gradient_accumulation_steps: 1,
      learning_rate: 2e-3,
      lr_scheduler_type: 'linear',
      warmup_ratio: 0,
      max_grad_norm: 1,
      logging_steps: 10,
      eval_strategy: evaluation === undefined ? 'no' : 'epoch',
      save_strategy: 'epoch',
    },
    logging: { tensorboard: true },
  };
  const head = `# Trains with: mambatune train ${path}\n# Paths are relative to the folder that is run from. configs/reference.yaml of mambatune explains every key.\n\n`;
  return head + commentedConfig(configJsonSchema(), values, { all: false });
}

async function* linesOf(stdin: CliIo['stdin']): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const chunk of stdin) {
    const lines = (rest + (typeof chunk === 'string' ? chunk : decoder.decode(chunk, { stream: true }))).split('\n');
    rest = lines.pop() ?? '';
    yield* lines;
  }
  if (rest !== '') yield rest;
}
