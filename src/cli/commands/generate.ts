// SPDX-License-Identifier: Apache-2.0
/** mambatune generate: continues prompts with a model, with or without an adapter. */
import { Command, Option } from 'commander';
import { ConfigError } from '../../errors.ts';
import type { SamplingOptions } from '../../generation/index.ts';
import type { CliContext } from '../context.ts';
import type { GenerateRequest } from '../generate_with.ts';
import { backendOption, collect, decimalNumber, revisionOption, wholeNumber } from '../options.ts';
import { interruptible, runCommand } from '../run_command.ts';

/** The options as they are parsed. */
interface GenerateOptions extends Pick<GenerateRequest, 'model' | 'adapter' | 'revision' | 'backend' | 'maxNewTokens'> {
  prompt?: string[];
  temperature?: number;
  topK?: number;
  topP?: number;
  seed?: number;
  stream?: boolean;
}

const SAMPLING_OPTIONS = ['temperature', 'topK', 'topP'] as const;

export function generateCommand(context: CliContext): Command {
  const positive = decimalNumber((value) => value > 0, 'a number above 0 (greedy choice is the default)');
  const probability = decimalNumber((value) => value >= 0 && value <= 1, 'a number from 0 to 1');
  return new Command('generate')
    .summary('continues prompts')
    .description(
      'Continues prompts. stdout gets the texts, prompts included; takes the likeliest token each time unless told to sample.',
    )
    .option('--model <path>', 'model folder or Hub id; by default the base model that the adapter names')
    .option('--adapter <folder>', 'adapter to use, such as runs/quickstart/adapter')
    .addOption(revisionOption())
    .option('--prompt <text>', 'text to continue; may be repeated (default: all of stdin as one prompt)', collect)
    .option('--max-new-tokens <n>', 'most tokens to add to a prompt', wholeNumber(1), 100)
    .addOption(
      new Option('--greedy', 'take the likeliest token each time (the default)').conflicts([...SAMPLING_OPTIONS]),
    )
    .option('--temperature <t>', 'sample: below 1 safer, above 1 wilder', positive)
    .option('--top-k <k>', 'sample from the k likeliest tokens, 0 for all (50 when sampling)', wholeNumber(0))
    .option('--top-p <p>', 'sample from the fewest likeliest tokens with this total probability', probability)
    .option('--seed <n>', 'of sampling: the same seed gives the same text', wholeNumber(0))
    .option('--stream', 'print each piece of text as it comes')
    .addOption(backendOption())
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  $ mambatune generate --model models/mamba-5m --prompt "politician, n."\n' +
        '  $ mambatune generate --adapter runs/quickstart/adapter --prompt "love, n." --temperature 0.8 --seed 1 --stream\n' +
        '  $ echo "The sea" | mambatune generate --model state-spaces/mamba-130m-hf',
    )
    .action((options: GenerateOptions) => runCommand(context, () => generateTexts(context, options)));
}

async function generateTexts(context: CliContext, options: GenerateOptions): Promise<object> {
  if (options.stream && context.json) {
    throw new ConfigError('--stream prints as it goes and --json at the end: found both; leave one out.');
  }
  const sampling = samplingOptions(options);
  const prompts = options.prompt ?? [await promptFromStdin(context)];
  const { generateWith } = await import('../generate_with.ts');
  const live = options.stream ?? false;
  return interruptible((signal) => generateWith(context, { ...options, prompts, sampling, live, signal }));
}

function samplingOptions(options: GenerateOptions): SamplingOptions {
  const { temperature, topK, topP, seed } = options;
  const doSample = SAMPLING_OPTIONS.some((name) => options[name] !== undefined);
  if (seed !== undefined && !doSample) {
    throw new ConfigError('--seed changes nothing without sampling; add --temperature, --top-k or --top-p.');
  }
  return doSample ? { doSample, temperature, topK, topP, seed: seed ?? Math.floor(Math.random() * 2 ** 32) } : {};
}

/** The whole of stdin, without the line break at its end. */
async function promptFromStdin({ io }: CliContext): Promise<string> {
  if (io.stdin.isTTY === true) {
    throw new ConfigError('found no prompt; give --prompt "text", or pipe a text in.');
  }
  const decoder = new TextDecoder();
  let text = '';
  for await (const chunk of io.stdin)
    text += typeof chunk === 'string' ? chunk : decoder.decode(chunk, { stream: true });
  return (text + decoder.decode()).replace(/\r?\n$/, '');
}
