// SPDX-License-Identifier: Apache-2.0
/** mambatune init: writes a config to begin with. */
import { Command } from 'commander';
import type { CliContext } from '../context.ts';
import { runCommand } from '../run_command.ts';

export function initCommand(context: CliContext): Command {
  return new Command('init')
    .summary('writes a config to begin with')
    .description(
      'Asks for model, data and run folder, and writes a config that says what each key means. configs/reference.yaml has every key.',
    )
    .argument('[file]', 'YAML file to write; must not exist', 'mambatune.yaml')
    .option('--yes', 'ask nothing: the model and the data of the quickstart')
    .addHelpText('after', '\nExample:\n  $ mambatune init my_run.yaml\n  $ mambatune train my_run.yaml')
    .action((path: string, options: { yes?: boolean }) =>
      runCommand(context, async () =>
        (await import('../write_config.ts')).writeConfig(context, path, options.yes ?? false),
      ),
    );
}
