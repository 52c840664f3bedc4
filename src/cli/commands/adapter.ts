// SPDX-License-Identifier: Apache-2.0
/** mambatune adapter: what is in an adapter, adapters of other programs, several in one. */
import { Command, InvalidArgumentError, Option } from 'commander';
import { COMBINATION_TYPES, MAJORITY_SIGN_METHODS } from '../../../adapters/combine_types.ts';
import { EMBEDDING_POLICIES } from '../../../adapters/head_policy.ts';
import type { CombineRequest, ConvertRequest, InspectRequest } from '../adapter_with.ts';
import type { CliContext } from '../context.ts';
import { decimalNumber, revisionOption, wholeNumber } from '../options.ts';
import { runCommand } from '../run_command.ts';

export function adapterCommand(context: CliContext): Command {
  return new Command('adapter')
    .summary('inspects, converts and combines adapters')
    .description('Works on adapter folders. None of these commands loads a model.')
    .addCommand(inspectCommand(context))
    .addCommand(convertCommand(context))
    .addCommand(combineCommand(context));
}

function inspectCommand(context: CliContext): Command {
  return new Command('inspect')
    .summary('what an adapter holds, and what is wrong with it')
    .description(
      'Prints targets, ranks and norms by module; tensors that are all zero or not finite; which weights it was trained on; ' +
        'and what peft cannot use of it.',
    )
    .argument('<folder>', 'adapter in the format of peft')
    .option('--model <path>', 'base model, folder or Hub id, to compare with: fit, fingerprint, relative norms')
    .addOption(revisionOption())
    .addHelpText('after', '\nExample:\n  $ mambatune adapter inspect runs/quickstart/adapter --model models/mamba-5m')
    .action((folder: string, options: Omit<InspectRequest, 'folder'>) =>
      runCommand(context, async () =>
        (await import('../adapter_with.ts')).inspectWith(context, { ...options, folder }),
      ),
    );
}

function convertCommand(context: CliContext): Command {
  return new Command('convert')
    .summary('between the formats of peft and mlx-lm')
    .description(
      'Writes an adapter of peft as one of mlx-lm, or the other way round; which of them it is, is found out.',
    )
    .argument('<folder>', 'adapter to convert')
    .requiredOption('--output <folder>', 'folder to write; must be empty or not exist')
    .addOption(
      new Option(
        '--embeddings <policy>',
        'for an adapter of the embeddings, which mlx-lm applies to a tied head as well and peft does not: ' +
          'refuse, convert (the model has an untied head, or the difference is accepted), or drop it',
      )
        .choices(EMBEDDING_POLICIES)
        .default('refuse'),
    )
    .addHelpText(
      'after',
      '\nExample:\n  $ mambatune adapter convert runs/quickstart/adapter --output for_mlx --embeddings drop',
    )
    .action((folder: string, options: Omit<ConvertRequest, 'folder'>) =>
      runCommand(context, async () =>
        (await import('../adapter_with.ts')).convertWith(context, { ...options, folder }),
      ),
    );
}

function combineCommand(context: CliContext): Command {
  return new Command('combine')
    .summary('one adapter out of several of the same base')
    .description("Writes the weighted sum of adapters as one, in the ways of peft's add_weighted_adapter.")
    .argument('<folders...>', 'adapters in the format of peft')
    .requiredOption('--output <folder>', 'folder to write; must be empty or not exist')
    .requiredOption('--weights <list>', 'one number for each adapter, such as 1,-0.5; may be negative', numbers)
    .addOption(
      new Option(
        '--type <name>',
        'svd: the nearest sum of a given rank; linear: sums of A and of B; cat: exact, ranks add up; ' +
          'ties, dare_linear, dare_ties, magnitude_prune: sums of A and of B after pruning',
      )
        .choices(COMBINATION_TYPES)
        .default('svd'),
    )
    .option('--svd-rank <n>', "rank of the result of svd (default: the largest of the adapters')", wholeNumber(1))
    .option(
      '--density <share>',
      'share of the values that pruning keeps',
      decimalNumber((value) => value > 0 && value <= 1, 'a number above 0 and up to 1'),
    )
    .addOption(
      new Option(
        '--majority-sign-method <name>',
        'of ties and dare_ties: total weighs signs by size (the default), frequency counts them',
      ).choices(MAJORITY_SIGN_METHODS),
    )
    .option('--seed <n>', 'of what dare_linear and dare_ties keep (default: 0)', wholeNumber(0))
    .option('--base <name>', 'the base model of all of them, when they name it differently')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  $ mambatune adapter combine runs/a/adapter runs/b/adapter --weights 0.7,0.3 --type cat --output both\n' +
        '  $ mambatune adapter combine runs/a/adapter runs/b/adapter --weights 1,-1 --type ties --density 0.5 --output a_without_b',
    )
    .action((folders: string[], options: Omit<CombineRequest, 'folders'>) =>
      runCommand(context, async () =>
        (await import('../adapter_with.ts')).combineWith(context, { ...options, folders }),
      ),
    );
}

function numbers(text: string): number[] {
  const values = text.split(',').map((part) => (part.trim() === '' ? Number.NaN : Number(part)));
  if (!values.every(Number.isFinite))
    throw new InvalidArgumentError('Expected numbers with commas between, such as 1,-0.5.');
  return values;
}
