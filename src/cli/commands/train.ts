// SPDX-License-Identifier: Apache-2.0
/** mambatune train: trains the adapter that a config describes. */
import { Command } from 'commander';
import type { CliContext } from '../context.ts';
import { setOption } from '../options.ts';
import { runCommand } from '../run_command.ts';

export function trainCommand(context: CliContext): Command {
  return new Command('train')
    .summary('trains an adapter as a config file says')
    .description('Trains a LoRA adapter as a config file says.')
    .argument('<config>', 'YAML file; configs/reference.yaml has every key, explained')
    .addOption(setOption())
    .addHelpText(
      'after',
      '\nExample:\n' +
        '  $ mambatune train configs/quickstart.yaml --set trainer.max_steps=50 --set trainer.output_dir=runs/short\n\n' +
        'Ctrl-C finishes the step, saves a checkpoint and the adapter, and exits with 130; a second one ends at once.',
    )
    .action((path: string, options: { set: string[] }) => runCommand(context, () => train(context, path, options.set)));
}

async function train(context: CliContext, path: string, overrides: readonly string[]): Promise<object> {
  const { loadConfig } = await import('../../config/load.ts');
  const { config } = loadConfig(path, overrides);
  const { runTraining } = await import('../../../trainer/index.ts');
  const { createProgress } = await import('../../logging/progress.ts');
  const { formatDuration } = await import('../../logging/format.ts');
  const { onMessage, ...progress } = { onMessage: context.logger.info, progress: createProgress(context.io.stderr) };
  const result = await runTraining(config, { onMessage, ...progress, handleSignals: true });

  const evalLoss = result.evalLosses.at(-1);
  const losses = `loss ${result.losses[0]?.toFixed(4)} → ${result.losses.at(-1)?.toFixed(4)}`;
  const evaluated = evalLoss ? `, on data.eval ${evalLoss.loss.toFixed(4)}` : '';
  context.print(`trained ${result.steps} steps in ${formatDuration(result.seconds)}: ${losses}${evaluated}\n`);
  context.print(`adapter: ${result.adapterFolder}\n`);
  context.print(`try it:  mambatune generate --adapter ${result.adapterFolder} --prompt "…"\n`);
  return result;
}
