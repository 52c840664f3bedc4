// SPDX-License-Identifier: Apache-2.0
/** mambatune eval: the loss of a model, with or without an adapter, on a config's data.eval. */
import { Command, Option } from 'commander';
import type { CliContext } from '../context.ts';
import { setOption } from '../options.ts';
import { interruptible, runCommand } from '../run_command.ts';

interface EvalOptions {
  set: string[];
  adapter?: string;
}

export function evalCommand(context: CliContext): Command {
  return new Command('eval')
    .summary('loss and perplexity on data.eval')
    .description('Computes loss and perplexity on the records of data.eval, every token counting the same.')
    .argument('<config>', 'YAML file, the one of a training or one with only model and data.eval')
    .addOption(new Option('--adapter <folder>', 'evaluate with this adapter; without it, the base model'))
    .addOption(setOption())
    .addHelpText('after', '\nExample:\n  $ mambatune eval configs/quickstart.yaml --adapter runs/quickstart/adapter')
    .action((path: string, options: EvalOptions) => runCommand(context, () => evaluateConfig(context, path, options)));
}

async function evaluateConfig(context: CliContext, path: string, options: EvalOptions): Promise<object> {
  const { loadEvalConfig } = await import('../../config/load.ts');
  const { config } = loadEvalConfig(path, options.set);
  const { evaluateWith } = await import('../evaluate_with.ts');
  const { formatCount, formatDuration, formatNumber } = await import('../../logging/format.ts');
  const result = await interruptible((signal) =>
    evaluateWith({ config, adapter: options.adapter, signal }, context.logger.info),
  );
  context.print(
    `loss ${result.loss.toFixed(4)}  perplexity ${formatNumber(result.perplexity)}  ` +
      `(${formatCount(result.tokens)} tokens of ${formatCount(result.examples)} records, ${formatDuration(result.seconds)})\n`,
  );
  return result;
}
