// SPDX-License-Identifier: Apache-2.0
/** mambatune merge: folds an adapter into its base model. */
import { Command, Option } from 'commander';
import { TIED_POLICIES } from '../../../adapters/tied_policy.ts';
import type { CliContext } from '../context.ts';
import type { MergeRequest } from '../merge_with.ts';
import { backendOption, byteSize, decimalNumber, dtypeOption, revisionOption } from '../options.ts';
import { runCommand } from '../run_command.ts';

export function mergeCommand(context: CliContext): Command {
  return new Command('merge')
    .summary('folds an adapter into its base model')
    .description(
      'Writes a model folder with the adapter folded into the weights, tensor by tensor, so that memory does not grow with the model. ' +
        'Then reads it back, compares its logits with those of base and adapter on a text, and writes merge_receipt.json; ' +
        'when they differ by more than the tolerance, nothing is left.',
    )
    .requiredOption('--adapter <folder>', 'adapter to fold in')
    .requiredOption('--output <folder>', 'folder to write; must be empty or not exist')
    .option('--model <path>', 'base model, folder or Hub id; by default the one that the adapter names')
    .addOption(revisionOption())
    .addOption(dtypeOption())
    .addOption(
      new Option('--max-shard-size <size>', 'most bytes of one weight file, such as 5GB or 200MB')
        .argParser(byteSize)
        .default(5e9, '5GB'),
    )
    .addOption(
      new Option(
        '--tied-embeddings <policy>',
        'when the head is tied to adapted embeddings: untie keeps the adapted logits by giving the head a matrix of its own, ' +
          'tied_both changes the head as well, refuse refuses',
      )
        .choices(TIED_POLICIES)
        .default('untie'),
    )
    .option(
      '--tolerance <share>',
      'largest difference of a logit allowed, as a share of the largest logit (default: 1e-4 in float32, 0.01 in float16, 0.05 in bfloat16)',
      decimalNumber((value) => value >= 0, 'a number from 0'),
    )
    .option('--probe <file>', 'text file to compare the logits on (default: a built-in text)')
    .option(
      '--peft-compatible',
      'write model/ with everything merged that peft refuses or misapplies on Mamba (out_proj, dt_proj, embeddings), and adapter/ with the rest',
    )
    .addOption(backendOption())
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  $ mambatune merge --adapter runs/quickstart/adapter --output runs/quickstart/merged\n' +
        '  $ mambatune merge --adapter runs/quickstart/adapter --output runs/quickstart/for_peft --peft-compatible',
    )
    .action((request: MergeRequest) =>
      runCommand(context, async () => (await import('../merge_with.ts')).mergeWith(context, request)),
    );
}
