// SPDX-License-Identifier: Apache-2.0
/** mambatune generate: continues prompts with a model, with or without an adapter. */
import { Command, Option } from 'commander';
import { ConfigError } from '../../errors.ts';
import type { CliContext } from '../context.ts';
import type { GenerateRequest } from '../generate_with.ts';
import { backendOption, collect, decimalNumber, revisionOption, wholeNumber } from '../options.ts';
import { interruptible, runCommand } from '../run_command.ts';

/** The options as they are parsed. */
interface ParsedOptions extends Pick<GenerateRequest, 'model' | 'adapter' | 'revision' | 'backend' | 'weights'> {
  prompt?: string[];
  chat?: boolean;
  system?: string;
  maxNewTokens: number;
  minNewTokens?: number;
  stop?: string[];
  eosTokenId?: number[];
  ignoreEos?: boolean;
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  seed?: number;
  numReturnSequences?: number;
  repetitionPenalty?: number;
  noRepeatNgramSize?: number;
  fromState?: string;
  saveState?: string;
  stream?: boolean;
}

const SAMPLING_OPTIONS = ['temperature', 'topK', 'topP', 'minP'] as const;

export function generateCommand(context: CliContext): Command {
  const positiveNumber = decimalNumber((value) => value > 0, 'a number above 0');
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
    .option(
      '--chat',
      "prompts are what a user says: they go into the tokenizer's chat template, and the answer alone is printed",
    )
    .option('--system <text>', 'with --chat: what the assistant is told to be')
    .option('--max-new-tokens <n>', 'most tokens to add to a prompt; 0 with --save-state', wholeNumber(0), 100)
    .option('--min-new-tokens <n>', 'do not end before this many', wholeNumber(0))
    .option('--stop <text>', 'end before this text; may be repeated', collect)
    .addOption(
      new Option('--eos-token-id <id>', "end at this token in place of the model's; may be repeated")
        .argParser((text, previous: number[] = []) => [...previous, wholeNumber(0)(text)])
        .conflicts('ignoreEos'),
    )
    .option('--ignore-eos', 'do not end at the end-of-text token')
    .addOption(
      new Option('--greedy', 'take the likeliest token each time (the default)').conflicts([...SAMPLING_OPTIONS]),
    )
    .option('--temperature <t>', 'sample: below 1 safer, above 1 wilder', positive)
    .option('--top-k <k>', 'sample from the k likeliest tokens, 0 for all (50 when sampling)', wholeNumber(0))
    .option('--top-p <p>', 'sample from the fewest likeliest tokens with this total probability', probability)
    .option('--min-p <p>', 'sample from the tokens at least this many times as likely as the likeliest', probability)
    .option('--seed <n>', 'of sampling: the same seed gives the same text', wholeNumber(0))
    .option('--num-return-sequences <n>', 'of sampling: continuations of each prompt', wholeNumber(1))
    .option('--repetition-penalty <x>', 'above 1: tokens of the text so far become less likely', positiveNumber)
    .addOption(noRepeatNgramOption())
    .option('--from-state <file>', 'prompts continue the text of a state that --save-state wrote')
    .option(
      '--save-state <file>',
      'write the state after the text: its prompt, if --max-new-tokens is 0, need not be read again',
    )
    .option('--stream', 'print each piece of text as it comes')
    .addOption(
      new Option(
        '--weights <dtype>',
        'type that the weight matrices are rounded to; bfloat16 reads half the bytes a token',
      )
        .choices(['float32', 'bfloat16'])
        .default('float32'),
    )
    .addOption(backendOption())
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  $ mambatune generate --model models/mamba-5m --prompt "politician, n."\n' +
        '  $ mambatune generate --adapter runs/quickstart/adapter --prompt "love, n." --temperature 0.8 --seed 1 --stream\n' +
        '  $ echo "The sea" | mambatune generate --model state-spaces/mamba-130m-hf\n' +
        '  $ mambatune generate --model models/mamba-5m --max-new-tokens 0 --save-state manual.safetensors < manual.txt\n' +
        '  $ mambatune generate --model models/mamba-5m --from-state manual.safetensors --prompt " In short," --stop "\\n\\n"',
    )
    .action((options: ParsedOptions) => runCommand(context, () => generateTexts(context, options)));
}

/** A name that begins with --no- would switch an option off. */
function noRepeatNgramOption(): Option {
  const option = new Option('--no-repeat-ngram-size <n>', 'no run of this many tokens comes twice');
  option.negate = false;
  return option.argParser(wholeNumber(1));
}

async function generateTexts(context: CliContext, parsed: ParsedOptions): Promise<object> {
  const { model, adapter, revision, backend, weights, fromState, saveState, chat, system } = parsed;
  checkCombinations(context, parsed);
  const options = generationOptions(parsed);
  const prompts = parsed.prompt ?? [await promptFromStdin(context, fromState !== undefined)];
  if (saveState !== undefined && prompts.length > 1) {
    throw new ConfigError(`--save-state writes the state of one text; found ${prompts.length} prompts.`);
  }
  const { generateWith } = await import('../generate_with.ts');
  return interruptible((signal) =>
    generateWith(context, {
      ...{ model, adapter, revision, backend, weights, fromState, saveState, prompts, options, signal },
      chat: chat ? { ...(system !== undefined && { system }) } : null,
      live: parsed.stream ?? false,
    }),
  );
}

/** @throws ConfigError naming options that make no sense together */
function checkCombinations(context: CliContext, parsed: ParsedOptions): void {
  const { stream, chat, system, fromState, saveState, numReturnSequences = 1, maxNewTokens } = parsed;
  const problems: [boolean | undefined, string][] = [
    [stream && context.json, '--stream prints as it goes and --json at the end: found both; leave one out.'],
    [
      system !== undefined && !chat,
      '--system speaks through a chat template; add --chat, or put the text into the prompt.',
    ],
    [
      chat && fromState !== undefined,
      '--chat begins a conversation and --from-state continues a text: found both; leave one out.',
    ],
    [
      saveState !== undefined && numReturnSequences > 1,
      `--save-state writes the state of one text; found --num-return-sequences ${numReturnSequences}.`,
    ],
    [
      maxNewTokens === 0 && saveState === undefined,
      '--max-new-tokens 0 reads the prompt alone, which nothing shows without --save-state.',
    ],
  ];
  const problem = problems.find(([isFound]) => isFound)?.[1];
  if (problem) throw new ConfigError(problem);
}

function generationOptions(parsed: ParsedOptions): GenerateRequest['options'] {
  const { temperature, topK, topP, minP, seed, numReturnSequences } = parsed;
  const { maxNewTokens, minNewTokens, stop, eosTokenId, ignoreEos, repetitionPenalty, noRepeatNgramSize } = parsed;
  const doSample = SAMPLING_OPTIONS.some((name) => parsed[name] !== undefined);
  for (const [name, value] of Object.entries({ '--seed': seed, '--num-return-sequences': numReturnSequences })) {
    if (value === undefined || doSample) continue;
    throw new ConfigError(`${name} changes nothing without sampling; add --temperature, --top-k, --top-p or --min-p.`);
  }
  const options: GenerateRequest['options'] = {
    ...{ maxNewTokens, minNewTokens, repetitionPenalty, noRepeatNgramSize, stopStrings: stop },
    ...(ignoreEos ? { eosTokenId: null } : eosTokenId && { eosTokenId }),
    ...(doSample && {
      doSample,
      temperature,
      topK,
      topP,
      minP,
      numReturnSequences,
      seed: seed ?? Math.floor(Math.random() * 2 ** 32),
    }),
  };
  return options;
}

/** The whole of stdin, without the line break at its end. */
async function promptFromStdin({ io }: CliContext, mayBeEmpty: boolean): Promise<string> {
  if (io.stdin.isTTY === true) {
    if (mayBeEmpty) return '';
    throw new ConfigError('found no prompt; give --prompt "text", or pipe a text in.');
  }
  const decoder = new TextDecoder();
  let text = '';
  for await (const chunk of io.stdin)
    text += typeof chunk === 'string' ? chunk : decoder.decode(chunk, { stream: true });
  return (text + decoder.decode()).replace(/\r?\n$/, '');
}
