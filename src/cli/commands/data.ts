// SPDX-License-Identifier: Apache-2.0
/** mambatune data preview: what a run learns from its data. */
import { Command, Option } from 'commander';
import type { CliContext } from '../context.ts';
import { setOption, wholeNumber } from '../options.ts';
import { runCommand } from '../run_command.ts';

interface PreviewOptions {
  set: string[];
  part: 'train' | 'eval';
  records: number;
}

export function dataCommand(context: CliContext): Command {
  return new Command('data')
    .summary("looks at a config's data")
    .description("Looks at a config's data as training sees it.")
    .addHelpText('after', '\nExample:\n  $ mambatune data preview configs/quickstart.yaml')
    .addCommand(previewCommand(context));
}

function previewCommand(context: CliContext): Command {
  return new Command('preview')
    .summary('tokens, loss mask and lengths')
    .description(
      'Prints the first records token by token, those that carry loss in green (without colours: between ⟦ and ⟧), and counts and ' +
        'lengths of all records. Needs the tokenizer of the model, not its weights.',
    )
    .argument('<config>', 'YAML file of a training')
    .addOption(new Option('--part <name>', 'which records').choices(['train', 'eval']).default('train'))
    .option('--records <n>', 'records to print', wholeNumber(0), 3)
    .addOption(setOption())
    .addHelpText(
      'after',
      '\nExample:\n  $ mambatune data preview configs/quickstart.yaml --records 5 --set data.packing=true',
    )
    .action((path: string, options: PreviewOptions) => runCommand(context, () => preview(context, path, options)));
}

async function preview(context: CliContext, path: string, { set, part, records }: PreviewOptions): Promise<object> {
  const { loadConfig } = await import('../../config/load.ts');
  const { config } = loadConfig(path, set);
  const { formatPreview, previewData } = await import('../preview_data.ts');
  const { stylerFor } = await import('../../logging/logger.ts');
  const result = await previewData(config, part, records, context.logger.info);
  context.print(formatPreview(result, stylerFor(context.io.stdout)));
  return result;
}
