// SPDX-License-Identifier: Apache-2.0
/** mambatune quickstart: trains configs/quickstart.yaml and shows what it changed. */
import { Command } from 'commander';
import type { CliContext } from '../context.ts';
import { setOption } from '../options.ts';
import { runCommand } from '../run_command.ts';

export function quickstartCommand(context: CliContext): Command {
  return new Command('quickstart')
    .summary('trains a small model and shows before and after')
    .description(
      "Teaches a small Mamba model the style of Ambrose Bierce's Devil's Dictionary (configs/quickstart.yaml), and shows what " +
        'it writes before and after, and its loss on records that it was not trained on.',
    )
    .addOption(setOption())
    .addHelpText('after', '\nExample:\n  $ mambatune quickstart')
    .action(({ set }: { set: string[] }) =>
      runCommand(context, async () => (await import('../run_quickstart.ts')).runQuickstart(context, set)),
    );
}
