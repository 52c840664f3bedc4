// SPDX-License-Identifier: Apache-2.0
/** mambatune merge: folds an adapter into its base model. */
import { Command } from 'commander';
import type { CliContext } from '../context.ts';
import type { MergeRequest } from '../merge_with.ts';
import { backendOption, dtypeOption, revisionOption } from '../options.ts';
import { runCommand } from '../run_command.ts';

export function mergeCommand(context: CliContext): Command {
  return new Command('merge')
    .summary('folds an adapter into its base model')
    .description(
      'Writes a model folder with the adapter folded into the weights, and checks that its logits are those of base and adapter. ' +
        'A head that is tied to adapted embeddings becomes a matrix of its own, as the adapter changes the lookup alone.',
    )
    .requiredOption('--adapter <folder>', 'adapter to fold in')
    .requiredOption('--output <folder>', 'folder to write; must be empty or not exist')
    .option('--model <path>', 'base model, folder or Hub id; by default the one that the adapter names')
    .addOption(revisionOption())
    .addOption(dtypeOption())
    .addOption(backendOption())
    .addHelpText(
      'after',
      '\nExample:\n  $ mambatune merge --adapter runs/quickstart/adapter --output runs/quickstart/merged',
    )
    .action((request: MergeRequest) =>
      runCommand(context, async () => (await import('../merge_with.ts')).mergeWith(context, request)),
    );
}
